"""Messages for refused values, in one line: path, value, and the values that the settings class allows."""

import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from dwp.errors import InputError

Schema = dict[str, Any]

# If an entry of a list is refused, pydantic also reports the list's length.
LENGTH = ("too_short", "too_long")
UNKNOWN = "unexpected_keyword_argument"

PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "a text": "texts"}
# Types that are shown with the description of the setting.
VAGUE = {"a text", "a list", "a list of texts", "a mapping"}


def first(
    cls: type, value: object, errors: Sequence[Mapping[str, Any]], where: str = "", *, partial: bool = False
) -> InputError | None:
    """Return the first of pydantic's errors that should be shown; None if there is none.

    Args:
        cls: the settings class.
        value: the refused value, as JSON.
        errors: pydantic's errors, for a value inside a tuple (see `typed.adapter`).
        where: prefix of the path in the message.
        partial: ignore missing keys.
    """
    found = [Refusal(value, error) for error in errors]
    found = [one for one in found if not (partial and one.kind == "missing")]
    found = [one for one in found if one.kind not in LENGTH or not one.is_of_entries(found)]
    return InputError(_message(schema_of(cls), _meant(found), where)) if found else None


@functools.cache
def schema_of(cls: type) -> Schema:
    """Return the JSON schema of a settings class."""
    return TypeAdapter(cls).json_schema(by_alias=True)


class Refusal:
    """One of pydantic's errors.

    Attributes:
        kind: pydantic's name for it.
        path: keys and indices of the refused or missing value.
        union: length of the path to the union of types that the value does not match; None: no union.
        branch: the type of that union that this error is about.
    """

    def __init__(self, value: Any, error: Mapping[str, Any]) -> None:
        self.kind, self.value, self.error = error["type"], error["input"], error
        self.branch: object = None
        self.union: int | None = None
        path: list[str | int] = []
        missing = self.kind == "missing"
        # Inside a union, pydantic's location also contains the names of the types that it tried.
        for part in error["loc"][1:-1] if missing else error["loc"][1:]:
            if isinstance(part, int) or (isinstance(value, dict) and part in value):
                path.append(part)
                value = value[part]
            elif part != "[key]" and self.union is None:
                self.branch, self.union = part, len(path)
        self.path = (*path, error["loc"][-1]) if missing else tuple(path)

    def is_of_entries(self, others: Sequence["Refusal"]) -> bool:
        """Return whether other errors are about entries of the value of this one."""
        depth = len(self.path)
        return any(len(one.path) > depth and one.path[:depth] == self.path for one in others)


def _meant(found: list[Refusal]) -> Refusal:
    """Return the first error; within a union, the first one of the type that was most likely meant."""
    union, start = found[0].union, found[0].path
    if union is not None:
        branches: dict[object, list[Refusal]] = {}
        for one in found:
            if one.union == union and one.path[:union] == start[:union]:
                branches.setdefault(one.branch, []).append(one)
        # The type whose errors are deepest, and among those the one with the fewest errors.
        found = max(
            branches.values(), key=lambda branch: (max(len(one.path) for one in branch), -len(branch))
        )
    # A missing key may be misspelt.
    siblings = [one for one in found if one.kind == UNKNOWN and one.path[:-1] == found[0].path[:-1]]
    return siblings[0] if siblings and found[0].kind == "missing" else found[0]


def _message(schema: Schema, one: Refusal, where: str) -> str:
    path = ".".join(map(str, one.path))
    here = f"{where}.{path}" if where and path else where or path or "it"
    if one.kind == "value_error":
        return f"{here}: {one.error['ctx']['error']}"
    if one.kind == UNKNOWN:
        return f"{here}: {unknown_key(one.path[-1], keys(schema, one.path[:-1]))}"
    if one.kind == "missing":
        form = expected(schema, one.path[: one.union]) if one.union is not None else ""
        return f"{here}: missing; " + (f"expected {form}" if form else "give it a value")
    return f"{here}: {shown(one.value)} is not allowed; expected {expected(schema, one.path)}"


def unknown_key(key: object, known: Sequence[str]) -> str:
    """Return the message for an unknown key, with the closest known key."""
    close = difflib.get_close_matches(str(key), known, 1)
    meant = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown key{meant} allowed here: {', '.join(known)}"


def shown(value: object) -> str:
    """Return a value as it is quoted in messages."""
    return repr(value) if isinstance(value, str | bool | None) else json.dumps(value)


def keys(schema: Schema, path: Sequence[str | int]) -> list[str]:
    """Return the keys of the mapping at a path."""
    return list(dict.fromkeys(key for one in _at(schema, path) for key in one.get("properties", {})))


def expected(schema: Schema, path: Sequence[str | int]) -> str:
    """Return a description of the values allowed at a path."""
    if not path:
        return words(schema, schema)
    found = [child for parent in _at(schema, path[:-1]) for child in _children(parent, path[-1])]
    return _joined(list(dict.fromkeys(words(one, schema) for one in found))) or "another key"


def words(one: Schema, root: Schema) -> str:
    """Return a description of the values that a schema allows: 'null or a whole number from 1'."""
    allowed = list(dict.fromkeys(text for kind in _alternatives(one, root) for text in _words(kind, root)))
    said = _joined(sorted(allowed, key=lambda text: text != "null"))
    description = one.get("description")
    return f"{said} ({description})" if description and not VAGUE.isdisjoint(allowed) else said


def _words(one: Schema, root: Schema) -> list[str]:
    if "const" in one or "enum" in one:
        return [str(value) for value in one.get("enum", [one.get("const")])]
    match one.get("type"):
        case "null":
            return ["null"]
        case "boolean":
            return ["true or false"]
        case "integer":
            return [_number("a whole number", one)]
        case "number":
            return [_number("a number", one)]
        case "array":
            items = words({**one.get("items", {}), "description": ""}, root)
            each = ", each once" if one.get("uniqueItems") else ""
            singular, plural = next((pair for pair in PLURALS.items() if items.startswith(pair[0])), ("", ""))
            return [f"a list of {items.replace(singular, plural, 1)}{each}" if singular else "a list"]
        case "object" if "properties" in one:
            return [f"{{{', '.join(one['properties'])}}}"]
        case "object":
            return ["a mapping"]
    return ["a text"]


def _number(kind: str, one: Schema) -> str:
    limits = [
        (word, one[key])
        for word, key in (
            ("from", "minimum"),
            ("above", "exclusiveMinimum"),
            ("to", "maximum"),
            ("below", "exclusiveMaximum"),
        )
        if key in one
    ]
    said = " and ".join(f"{word} {limit:g}" for word, limit in limits)
    return f"{kind} {said}".strip().replace(" and to ", " to ")


def _joined(parts: list[str]) -> str:
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _at(root: Schema, path: Sequence[str | int]) -> list[Schema]:
    """Return the schemas at a path, with references and unions resolved."""
    found = list(_alternatives(root, root))
    for part in path:
        children = [child for parent in found for child in _children(parent, part)]
        found = [kind for child in children for kind in _alternatives(child, root)]
    return found


def _children(one: Schema, part: str | int) -> Iterator[Schema]:
    if isinstance(part, int):
        if "items" in one:
            yield one["items"]
    elif part in one.get("properties", {}):
        yield one["properties"][part]
    else:
        others = [one.get("additionalProperties"), *one.get("patternProperties", {}).values()]
        yield from (other for other in others if isinstance(other, dict))


def _alternatives(one: Schema, root: Schema) -> Iterator[Schema]:
    """Yield a schema with its references and unions resolved."""
    if "$ref" in one:
        yield from _alternatives(root["$defs"][one["$ref"].rpartition("/")[2]], root)
    elif "anyOf" in one:
        for kind in one["anyOf"]:
            yield from _alternatives(kind, root)
    else:
        yield one
