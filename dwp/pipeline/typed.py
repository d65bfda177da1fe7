"""Conversion between plain values, as in YAML and JSON, and settings.

A settings class is a standard dataclass, see `dwp.settings`. Values are validated strictly: a string
is not a number, a boolean is not an integer, and an unknown key is refused.
"""

import dataclasses
import functools
import importlib
import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dwp.errors import InputError
from dwp.settings import marked

T = TypeVar("T")


def parse(cls: type[T], value: object, where: str = "") -> T:
    """Return an instance of a settings class.

    Args:
        cls: the class.
        value: a mapping of plain values.
        where: prefix of paths in errors: 'priors.vae'.

    Raises:
        InputError: names the first path that is refused, its value, and what is expected.
    """
    value = plain(value)
    try:
        # As JSON, since strict mode would otherwise require an instance of the class, and tuples for lists.
        # A class is hashable, but the annotations of the cache do not allow it.
        settings = adapter(cls).validate_json(json.dumps([value]))[0]  # type: ignore[arg-type]
    except ValidationError as error:
        errors = error.errors(include_url=False)
    else:
        for path, values in _repeating(settings, where):
            raise InputError(f"{path}: {json.dumps(values)} is not allowed; expected each value once")
        return settings
    # Imported by name, so that the wording of messages is not part of the code digest of jobs.
    raise importlib.import_module("dwp.pipeline.config.errors").first(cls, value, errors, where)


def dump(settings: Any) -> Any:
    """Return settings as plain JSON values, without those that have their default."""
    kinds = adapter(type(settings))  # type: ignore[arg-type]  # as above
    return kinds.dump_python((settings,), mode="json", exclude_defaults=True, by_alias=True)[0]


def _repeating(settings: Any, where: str) -> Iterator[tuple[str, tuple]]:
    """Yield path and value of each list of settings that must not repeat a value but does."""
    unique = marked(type(settings), "uniqueItems")
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), f"{where}.{field.name}".lstrip(".")
        if field.name in unique and len(set(value)) < len(value):
            yield path, value
        elif dataclasses.is_dataclass(value):
            yield from _repeating(value, path)


def plain(value: object) -> Any:
    """Return a YAML value as JSON allows it: keys and dates become text, tuples become lists."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


@functools.cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    """Return a pydantic adapter for a tuple of one instance of a class.

    Only inside a tuple does a standard dataclass accept this configuration.
    """
    return TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
