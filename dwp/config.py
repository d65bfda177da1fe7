"""Read a configuration: refuse what cannot be meant, in one line, before anything runs."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import jsonschema
import yaml

from dwp import experiments, priors
from dwp.errors import InputError

SQUARE = r"^([0-9]+)x\1$"


def validate(config: dict, schema_file: str | Path) -> None:
    """Hold a configuration against the schema, to which priors and experiments add their own keys.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    schema = yaml.safe_load(Path(schema_file).read_text(encoding="utf-8"))
    for section, extension in (("priors", _prior_schema), ("experiments", _experiment_schema)):
        entries = config.get(section)
        for name, settings in (entries if isinstance(entries, dict) else {}).items():
            if isinstance(settings, dict):
                try:
                    schema["properties"][section]["properties"][name] = extension(name, settings)
                except InputError as error:
                    raise InputError(f"config: {section}.{name}: {error}") from None
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError(_one_line(errors[0]))


def _prior_schema(name: str, settings: dict) -> dict:
    if not isinstance(settings.get("kind"), str):
        return {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}}
    cls = priors.find(settings["kind"])
    own = dict(cls.options)
    if cls.trained:
        own["schedule"] = {"$ref": "#/$defs/schedule"}
    each = {**own, "schedule": {"$ref": "#/$defs/part_of_schedule"}} if cls.trained else own
    sizes = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "patternProperties": {SQUARE: {"type": "object", "additionalProperties": False, "properties": each}},
    }
    properties = {"kind": {}, **own}
    if cls.fitted:
        properties["sizes"] = sizes
    required = ["schedule"] if cls.trained else []
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _experiment_schema(name: str, settings: dict) -> dict:
    module = experiments.find(name)
    method = {
        "type": "object",
        "additionalProperties": False,
        "required": ["init"],
        "properties": {"init": {"$ref": "#/$defs/init"}, **module.METHOD},
        "description": "a method",
    }
    properties = {
        "seeds": {"$ref": "#/$defs/count"},
        "shard": {"$ref": "#/$defs/count"},
        "network": {"$ref": "#/$defs/network"},
        "schedule": {"$ref": "#/$defs/schedule"},
        "every": {"type": "integer", "minimum": 0, "description": "a whole number from 0"},
        "methods": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"oneOf": [{"type": "null"}, method]},
        },
        **module.OPTIONS,
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


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
    expected = error.schema.get("description")
    while error.context:
        inner = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator != "type"))
        if expected and len(inner.absolute_path) == len(error.absolute_path):
            break
        error = inner
        expected = error.schema.get("description", expected)
    where = ".".join(map(str, error.absolute_path)) or "config"
    if error.validator == "additionalProperties":
        known = [*error.schema.get("properties", {})]
        patterns = error.schema.get("patternProperties", {})
        unknown = next(key for key in error.instance if key not in known and not _matches(key, patterns))
        close = difflib.get_close_matches(str(unknown), known, 1)
        meant = f", did you mean {close[0]!r}?" if close else ";"
        allowed = known or [f"keys like {pattern}" for pattern in patterns]
        return f"config: {_join(where, unknown)}: unknown key{meant} allowed here: {', '.join(allowed)}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"config: {_join(where, missing)}: missing; give it a value"
    return f"config: {where}: {error.instance!r} is not allowed; expected {expected or error.message}"


def _join(where: str, key: object) -> str:
    return str(key) if where == "config" else f"{where}.{key}"


def _matches(key: object, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, str(key)) for pattern in patterns)
