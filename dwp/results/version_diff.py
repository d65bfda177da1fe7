"""Differences between two versions of an artifact: parameters, code and inputs."""

from collections.abc import Iterable

from dwp.errors import InputError
from dwp.results.artifact_store import Version

ABSENT = "(absent)"


def diff(a: Version, b: Version, versions: Iterable[Version]) -> dict:
    """Return the differences between two versions of a stage.

    Returns:
        `a` and `b`, the labels; `changes`, a list of {path, a, b} with dotted paths, without
        `a` or `b` if only the other version has that path; `inputs`, the same by role for each
        input that both versions have and that differs.

    Raises:
        InputError: the versions belong to different stages, or one has no readable manifest.
    """
    if a.stage != b.stage:
        raise InputError(f"{a.label} and {b.label} are of different stages; compare versions of one stage")
    for version in (a, b):
        if not version.spec:
            raise InputError(f"{version.label} has no readable manifest yet; nothing says what made it")
    return _diff(a, b, {version.label: version for version in versions})


def _diff(a: Version, b: Version, known: dict[str, Version]) -> dict:
    left, right = _flat(a.spec), _flat(b.spec)
    changes, inputs = [], {}
    for path in dict.fromkeys((*left, *right)):
        if path in left and path in right and left[path] == right[path]:
            continue
        sides = {"a": left, "b": right}
        changes.append(
            {"path": path} | {side: values[path] for side, values in sides.items() if path in values}
        )
        one, other = (known.get(str(values.get(path))) for values in (left, right))
        if path.startswith("inputs.") and one and one.spec and other and other.spec:
            inputs[path.removeprefix("inputs.")] = _diff(one, other, known)
    return {"a": a.label, "b": b.label, "changes": changes, "inputs": inputs}


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings and lists by dotted path; a list of plain values is a leaf."""
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return {path: value}
    leaves: dict[str, object] = {}
    for key, inner in value.items():
        leaves |= _flat(inner, f"{path}.{key}" if path else str(key))
    return leaves
