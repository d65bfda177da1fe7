"""Settings: dataclass fields that carry their meaning, bounds and unit beside type and default.

A group of settings is a frozen dataclass of the standard library, so that the library and
the plan of a run read it without PyTorch and without pydantic. The pipeline hands the same
classes to pydantic, which takes the metadata for checks, the JSON schema and the reference.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any


def setting(
    description: str, default: Any = MISSING, *, unit: str = "", alias: str = "", **bounds: float
) -> Any:
    """Return a dataclass field for one setting.

    Args:
        description: what it is, in a line, as the configuration reference prints it.
        default: its value where none is given; without one it is required.
        unit: such as 'nats per kernel'.
        alias: its name in a configuration, where that is a keyword of Python.
        bounds: `ge`, `gt`, `le`, `lt`, or `min_length`, as pydantic calls them.
    """
    metadata: dict[str, Any] = {"description": description, **bounds}
    if unit:
        metadata["json_schema_extra"] = {"unit": unit}
    if alias:
        metadata["alias"] = alias
    return dataclasses.field(default=default, metadata=metadata)


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
