"""Plain values, as YAML and JSON hold them, to settings and back.

A class of settings is a dataclass of the standard library, see `dwp.settings`. Values are
taken strictly: a string is no number, a boolean no integer, and an unknown key is refused.
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
    """Return an instance of a class of settings.

    Args:
        cls: the class.
        value: a mapping of plain values.
        where: what errors name the value by: 'priors.vae'.

    Raises:
        InputError: names the first path that is refused, its value, and what is expected.
    """
    value = plain(value)
    try:
        # As JSON, in which strict does not mean an instance of the class, nor a tuple for a list.
        # A class is hashable, which the annotations of the cache do not see.
        settings = adapter(cls).validate_json(json.dumps([value]))[0]  # type: ignore[arg-type]
    except ValidationError as error:
        errors = error.errors(include_url=False)
    else:
        for path, values in _repeating(settings, where):
            raise InputError(f"{path}: {json.dumps(values)} is not allowed; expected each value once")
        return settings
    # By name, so that their wording is no part of the code of the jobs, which read their parameters here.
    raise importlib.import_module("dwp.pipeline.config.errors").first(cls, value, errors, where)


def dump(settings: Any) -> Any:
    """Return settings as plain JSON values, without those that are the default."""
    kinds = adapter(type(settings))  # type: ignore[arg-type]  # as above
    return kinds.dump_python((settings,), mode="json", exclude_defaults=True, by_alias=True)[0]


def _repeating(settings: Any, where: str) -> Iterator[tuple[str, tuple]]:
    """Yield path and value of each list of settings that holds a value twice and may not."""
    unique = marked(type(settings), "uniqueItems")
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), f"{where}.{field.name}".lstrip(".")
        if field.name in unique and len(set(value)) < len(value):
            yield path, value
        elif dataclasses.is_dataclass(value):
            yield from _repeating(value, path)


def plain(value: object) -> Any:
    """Return a value that YAML may hold as JSON may: keys and dates become text, tuples lists."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


@functools.cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    """Return what reads and writes one instance of a class, in a tuple.

    Inside a tuple, because only there a dataclass of the standard library takes this configuration.
    """
    return TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
