"""Settings as dataclass fields with a description, bounds and a unit in their metadata.

A group of settings is a frozen dataclass of the standard library, so that the library and
the planning of a run need neither PyTorch nor pydantic to read it. The pipeline passes the same
classes to pydantic, which uses the metadata for validation, the JSON schema and the reference.
"""

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any

from dwp.errors import InputError, unknown


def setting(
    description: str,
    default: Any = MISSING,
    *,
    unit: str = "",
    alias: str = "",
    unique: bool = False,
    counts: bool = False,
    **bounds: float,
) -> Any:
    """Return a dataclass field for one setting.

    Args:
        description: one line for the configuration reference.
        default: default value; a setting without one is required.
        unit: such as 'nats per kernel'.
        alias: name in a configuration, if that is a Python keyword.
        unique: whether the entries of a list must be distinct.
        counts: whether it only determines the number of results, or their division into jobs, and
            changes none of them.
        bounds: `ge`, `gt`, `le`, `lt` or `min_length`, as in pydantic.
    """
    metadata: dict[str, Any] = {"description": description, **bounds}
    extra = {"unit": unit, "uniqueItems": unique, "counts": counts}
    metadata["json_schema_extra"] = {name: value for name, value in extra.items() if value}
    if alias:
        metadata["alias"] = alias
    return dataclasses.field(default=default, metadata=metadata)


def marked(cls: type, mark: str) -> list[str]:
    """Return the names of the fields of a group of settings with a mark, 'uniqueItems' or 'counts'."""
    return [
        field.name for field in dataclasses.fields(cls) if mark in field.metadata.get("json_schema_extra", {})
    ]


def check(where: str, cls: type, values: Mapping[str, Any]) -> None:
    """Check values against the bounds and allowed names of a group of settings.

    This is for objects built without a configuration; a configuration checks types as well.

    Args:
        where: prefix of the error message.
        cls: the group of settings; None and values that are not settings of the group are accepted.
        values: values by name.

    Raises:
        InputError: a value is not allowed; the message names the first one and what is allowed.
    """
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        value, hint = values.get(field.name), hints[field.name]
        if value is None:
            continue
        if typing.get_origin(hint) is typing.Literal and value not in (known := typing.get_args(hint)):
            raise unknown(f"{where}: {field.name}", value, known)
        kind = "a whole number" if hint is int else "a number"
        for bound, (holds, word) in _BOUNDS.items():
            if bound in field.metadata and not holds(value, field.metadata[bound]):
                limit = field.metadata[bound]
                raise InputError(f"{where}: {field.name} is {value}; expected {kind} {word} {limit}")


_BOUNDS = {
    "ge": (operator.ge, "from"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "to"),
    "lt": (operator.lt, "below"),
}

_hints = functools.cache(typing.get_type_hints)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of a nested type: `tuple[Annotated[int, Bounds(ge=1)], ...]`."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict]) -> dict:
        """Return the schema of the type with these bounds; called by pydantic."""
        bounds = {name: value for name, value in vars(self).items() if value is not None}
        return {**handler(source), **bounds}
