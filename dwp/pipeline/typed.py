"""Plain values, as YAML and JSON hold them, to settings and back.

A class of settings is a dataclass of the standard library, see `dwp.settings`. Values are
taken strictly: a string is no number, a boolean no integer, and an unknown key is refused.
"""

import difflib
import functools
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dwp.errors import InputError
from dwp.pipeline import json_schema

T = TypeVar("T")
Path = tuple[str | int, ...]

# Of how many entries a list has, pydantic complains as well when one of them is refused.
LENGTH = ("too_short", "too_long")


def parse(cls: type[T], value: object, where: str = "", *, partial: bool = False) -> T | None:
    """Return an instance of a class of settings.

    Args:
        cls: the class.
        value: a mapping of plain values.
        where: the path of `value` in its file, as errors name it: 'priors.vae'.
        partial: only refuse what is there, not that keys are missing; returns None if there are.

    Raises:
        InputError: names the first path that is refused, its value, and what is expected.
    """
    plain = json.loads(json.dumps(value, default=str))
    try:
        # As JSON, in which strict does not mean an instance of the class, nor a tuple for a list.
        return adapter(cls).validate_json(json.dumps([plain]))[0]
    except ValidationError as error:
        found = [Refusal(plain, each) for each in error.errors(include_url=False)]
    schema = json_schema.of(cls)
    found = [one for one in found if not (partial and one.kind == "missing")]
    deeper = [one for one in found if one.kind not in LENGTH or not one.follows(found)]
    if not deeper:
        return None
    raise InputError(_message(schema, _chosen(deeper), where))


def dump(settings: object) -> Any:
    """Return settings as plain JSON values, without those that are the default."""
    kinds = adapter(type(settings))
    return kinds.dump_python((settings,), mode="json", exclude_defaults=True, by_alias=True)[0]


@functools.cache
def adapter(cls: type[T]) -> TypeAdapter[tuple[T]]:
    """Return what reads and writes one instance of a class, in a tuple.

    Inside a tuple, since a dataclass on its own has the strictness that is written in it.
    """
    return TypeAdapter(
        tuple[cls], config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_enum_values=True)
    )


class Refusal:
    """One of pydantic's errors.

    Attributes:
        path: keys and indices from the value that was read to the one refused, or missing.
        union: how many of them lead to a union one of whose `branch`es refuses the value; None: no union.
    """

    def __init__(self, value: object, error: dict) -> None:
        self.kind, self.value, self.error = error["type"], error["input"], error
        self.branch, self.union = None, None
        path: list[str | int] = []
        missing = self.kind == "missing"
        location = error["loc"][1:-1] if missing else error["loc"][1:]
        for part in location:
            if (isinstance(value, dict) and part in value) or (isinstance(value, list) and part != "[key]"):
                path.append(part)
                value = value[part]
            elif part != "[key]" and self.union is None:
                self.branch, self.union = part, len(path)
        self.path: Path = (*path, error["loc"][-1]) if missing else tuple(path)

    def follows(self, others: Sequence["Refusal"]) -> bool:
        """Return whether others are of what it holds."""
        depth = len(self.path)
        return any(len(one.path) > depth and one.path[:depth] == self.path for one in others)


def _chosen(found: list[Refusal]) -> Refusal:
    """Return the first refusal; of a union, the first of the branch that must have been meant."""
    first = found[0]
    if first.union is None:
        return first
    branches: dict[object, list[Refusal]] = {}
    for one in found:
        if one.union == first.union and one.path[: one.union] == first.path[: first.union]:
            branches.setdefault(one.branch, []).append(one)
    # The one that got furthest, and of those the one with the fewest objections.
    return max(branches.values(), key=lambda branch: (max(len(one.path) for one in branch), -len(branch)))[0]


def _message(schema: dict, one: Refusal, where: str) -> str:
    here = ".".join(map(str, (*filter(None, [where]), *one.path)))
    if one.kind == "value_error":
        reason = str(one.error["ctx"]["error"])
        return f"{here}: {reason}"
    if one.kind == "unexpected_keyword_argument":
        known = json_schema.keys(schema, one.path[:-1])
        close = difflib.get_close_matches(str(one.path[-1]), known, 1)
        meant = f", did you mean {close[0]!r}?" if close else ";"
        return f"{here}: unknown key{meant} allowed here: {', '.join(known)}"
    if one.kind == "missing":
        of_union = one.path[: one.union] if one.union is not None else None
        form = f"; expected {json_schema.expected(schema, of_union)}" if of_union else "; give it a value"
        return f"{here}: missing{form}"
    expected = json_schema.expected(schema, one.path)
    return f"{here or 'this'}: {one.value!r} is not allowed; expected {expected}"
