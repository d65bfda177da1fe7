"""Read a configuration: refuse what cannot be meant, in one line, before anything runs."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import jsonschema
import yaml

from dwp.errors import InputError


def validate(config: dict, schema_file: str | Path) -> None:
    """Hold a configuration against the schema.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    schema = yaml.safe_load(Path(schema_file).read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError(_one_line(errors[0]))


def without_removed(config: dict) -> dict:
    """Return the configuration without the entries of mappings that an overlay set to null to remove them."""
    kept = dict(config)
    kept["priors"] = {name: prior for name, prior in config["priors"].items() if prior is not None}
    kept["experiments"] = {}
    for name, experiment in config["experiments"].items():
        if experiment is not None:
            methods = {method: value for method, value in experiment["methods"].items() if value is not None}
            kept["experiments"][name] = {**experiment, "methods": methods}
    return kept


def _one_line(error: jsonschema.ValidationError) -> str:
    # Of alternatives, the one that got furthest is what was meant.
    while error.context:
        error = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator != "type"))
    where = ".".join(map(str, error.absolute_path)) or "config"
    if error.validator == "additionalProperties":
        known = [*error.schema.get("properties", {})]
        patterns = error.schema.get("patternProperties", {})
        unknown = next(key for key in error.instance if key not in known and not _matches(key, patterns))
        close = difflib.get_close_matches(str(unknown), known, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        allowed = known or [f"keys like {pattern}" for pattern in patterns]
        return f"config: {_join(where, unknown)}: unknown key{meant} Allowed here: {', '.join(allowed)}".replace("  ", " ")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"config: {_join(where, missing)}: missing; give it a value"
    allowed = error.schema.get("description") or error.message
    return f"config: {where}: {error.instance!r} is not allowed ({error.message}); expected: {allowed}"


def _join(where: str, key: object) -> str:
    return str(key) if where == "config" else f"{where}.{key}"


def _matches(key: object, patterns: Iterable[str]) -> bool:
    import re

    return any(re.search(pattern, str(key)) for pattern in patterns)
