"""JSON schemas of settings: what is expected at a path, in words."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

Schema = dict[str, Any]


@functools.cache
def of(cls: type) -> Schema:
    """Return the JSON schema of a class of settings."""
    return TypeAdapter(cls).json_schema(by_alias=True)


def keys(schema: Schema, path: Sequence[str | int]) -> list[str]:
    """Return the keys of the mapping at a path."""
    return list(dict.fromkeys(key for one in _at(schema, path) for key in one.get("properties", {})))


def expected(schema: Schema, path: Sequence[str | int]) -> str:
    """Return what may stand at a path, in words."""
    *parents, last = path if path else [None]
    if last is None:
        return words(schema, schema)
    found = [child for parent in _at(schema, parents) for child in _children(parent, last)]
    # Twice in a union is said once.
    return _joined(list(dict.fromkeys(words(one, schema) for one in found))) or "another key"


def words(one: Schema, root: Schema) -> str:
    """Return what a schema allows, in words: 'null or a whole number from 1'."""
    description = one.get("description", "")
    parts = []
    for kind in _alternatives(one, root):
        parts += _words(kind, root, description)
    return _joined(sorted(dict.fromkeys(parts), key=lambda part: part != "null"))


def _words(one: Schema, root: Schema, description: str) -> list[str]:
    if "const" in one or "enum" in one:
        return ["null" if value is None else str(value) for value in one.get("enum", [one.get("const")])]
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
            items = words(one.get("items", {}), root)
            for singular, plural in (("a whole number", "whole numbers"), ("a number", "numbers")):
                if items.startswith(singular):
                    return [f"a list of {items.replace(singular, plural, 1)}"]
            return [description or "a list"]
        case "object" if "properties" in one:
            return [f"{{{', '.join(one['properties'])}}}"]
        case "object":
            return [description or "a mapping"]
    return [description or "a text"]


def _number(kind: str, one: Schema) -> str:
    low, above = one.get("minimum"), one.get("exclusiveMinimum")
    high, below = one.get("maximum"), one.get("exclusiveMaximum")
    limits = [("from", low), ("above", above), ("to", high), ("below", below)]
    said = " and ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
    return f"{kind} {said}".strip().replace(" and to ", " to ")


def _joined(parts: list[str]) -> str:
    return " or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _at(root: Schema, path: Sequence[str | int]) -> list[Schema]:
    """Return the schemas of what is at a path, without references and unions."""
    found = list(_alternatives(root, root))
    for part in path:
        found = [
            kind
            for parent in found
            for child in _children(parent, part)
            for kind in _alternatives(child, root)
        ]
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
    if "$ref" in one:
        yield from _alternatives(root["$defs"][one["$ref"].rpartition("/")[2]], root)
    elif "anyOf" in one:
        for kind in one["anyOf"]:
            yield from _alternatives(kind, root)
    else:
        yield one
