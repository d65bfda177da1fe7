"""Settings: dataclass fields that carry their meaning, bounds and unit beside type and default.

A group of settings is a frozen dataclass of the standard library, so that the library and
the plan of a run read it without PyTorch and without pydantic. The pipeline hands the same
classes to pydantic, which takes the metadata for checks, the JSON schema and the reference.
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
        description: what it is, in a line, as the configuration reference prints it.
        default: its value where none is given; without one it is required.
        unit: such as 'nats per kernel'.
        alias: its name in a configuration, where that is a keyword of Python.
        unique: whether no two entries of a list may be equal.
        counts: whether it only says how many results there are, or how they are cut into jobs, and
            changes none of them.
        bounds: `ge`, `gt`, `le`, `lt`, or `min_length`, as pydantic calls them.
    """
    metadata: dict[str, Any] = {"description": description, **bounds}
    extra = {"unit": unit, "uniqueItems": unique, "counts": counts}
    metadata["json_schema_extra"] = {name: value for name, value in extra.items() if value}
    if alias:
        metadata["alias"] = alias
    return dataclasses.field(default=default, metadata=metadata)


def marked(cls: type, mark: str) -> list[str]:
    """Return the names of the fields of a group of settings that have a mark: 'uniqueItems', 'counts'."""
    return [
        field.name for field in dataclasses.fields(cls) if mark in field.metadata.get("json_schema_extra", {})
    ]


def check(where: str, cls: type, values: Mapping[str, Any]) -> None:
    """Refuse values that are out of the bounds, or not among the names, of a group of settings.

    For those who build objects without a configuration, which checks types as well.

    Args:
        where: what the message says they are of.
        cls: the group; values of other names pass, and so does None.
        values: by name.

    Raises:
        InputError: names the first that is refused, and what is allowed.
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
    """Bounds of a type inside another: `tuple[Annotated[int, Bounds(ge=1)], ...]`."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict]) -> dict:
        """Return the schema of the type with these bounds; pydantic calls this, and nothing else does."""
        bounds = {name: value for name, value in vars(self).items() if value is not None}
        return {**handler(source), **bounds}
