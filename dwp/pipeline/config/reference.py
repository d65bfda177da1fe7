"""Generator of the configuration's JSON schema and reference page, from its settings classes.

`python -m dwp.pipeline.config.reference` writes them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from dwp import data
from dwp.experiments import base as experiments
from dwp.files import atomic_write
from dwp.pipeline.config.errors import Schema, words
from dwp.pipeline.config.model import Config
from dwp.pipeline.paths import ROOT
from dwp.pipeline.typed import adapter
from dwp.priors import settings as priors

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.json"
REFERENCE = ROOT / "docs" / "configuration.md"

NULL = {"type": "null"}
SIZES = "settings by kernel size, such as {7x7: {}}; they go before those for all sizes"
NOT_REQUIRED = "required", "counts", "unit"

HEADER = """\
# Configuration

Every key of a configuration file. A file given by `--configfile` is laid over `config.yaml` key by key, and
values given by `--config` over both. A wrong key or value is refused before anything runs. *Default* is the
value if a key is missing, or, for a key that must be there, the one in `config.yaml`. Keys marked † only say
which results there are, or how they are cut into jobs: what is there already stays.

<!-- Made by `python -m dwp.pipeline.config.reference` from the classes of settings; change those. -->
"""


def schema() -> Schema:
    """Return the JSON schema of a configuration file, for editors.

    No key is required, since a file may be an overlay.
    """
    refs, defs = _schemas()
    root = _target(refs["config"], defs)
    root["properties"]["priors"]["additionalProperties"] = {
        "anyOf": [NULL, *(_prior(kind, _target(refs[kind], defs)) for kind in priors.known())]
    }
    root["properties"]["experiments"] |= {
        "additionalProperties": False,
        "properties": {name: {"anyOf": [NULL, refs[name]]} for name in experiments.known()},
    }
    for name in experiments.known():
        methods = _target(refs[name], defs)["properties"]["methods"]
        methods["additionalProperties"] = {"anyOf": [NULL, methods["additionalProperties"]]}
    _target(root["properties"]["data"], defs)["properties"]["options"]["propertyNames"] = {
        "enum": [*data.NAMES]
    }
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": defs}
    return _without(whole, NOT_REQUIRED)


def reference() -> str:
    """Return the reference of the configuration, a Markdown page with a table for each section."""
    refs, defs = _schemas()
    given = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    shared: dict[str, Schema] = {}
    lines = [HEADER]

    def section(title: str, one: Schema, values: Mapping[str, Any], level: int = 2) -> None:
        one = _target(one, defs)
        lines.extend([f"{'#' * level} {title}", "", _summary(one), ""])
        lines.extend(_table(one, values, defs, shared))

    root = _target(refs["config"], defs)
    plain = {key: one for key, one in root["properties"].items() if "$ref" not in one}
    plain = {key: one for key, one in plain.items() if key not in ("priors", "experiments")}
    section("Where and how", {**root, "description": "How jobs run.", "properties": plain}, given)
    for key in ("data", "source", "kernels", "scores", "report"):
        section(f"`{key}`", root["properties"][key], given[key])
    lines.extend(["## `priors`", "", "By name; each has the keys of its `kind`. Null removes one.", ""])
    for kind in priors.known():
        section(f"`kind: {kind}`", _prior(kind, _target(refs[kind], defs)), {}, 3)
    lines.extend(["## `experiments`", "", "By name. Null removes one, or one of its methods.", ""])
    for name in experiments.known():
        values = given["experiments"].get(name, {})
        section(f"`experiments.{name}`", _target(refs[name], defs), values, 3)
        method = _target(refs[name], defs)["properties"]["methods"]["additionalProperties"]
        section(f"A method of `{name}`", method, {}, 4)
    lines.extend(["## Shared by several sections", ""])
    done: set[str] = set()
    while todo := [name for name in shared if name not in done]:
        for name in todo:
            section(name, shared[name], {}, 3)
            done.add(name)
    return "\n".join(lines).rstrip() + "\n"


def _schemas() -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return references to the schemas of all settings classes, and the definitions that they refer to.

    The keys are 'config', the kinds of prior and the names of experiments.
    """
    classes: dict[str, type] = {"config": Config}
    classes |= {kind: priors.find(kind) for kind in priors.known()}
    classes |= {name: experiments.find(name).settings for name in experiments.known()}
    found, together = TypeAdapter.json_schemas(
        [(key, "validation", adapter(cls)) for key, cls in classes.items()]
    )
    # Each is the only entry of a tuple, see `typed.adapter`.
    return {key: one["prefixItems"][0] for (key, _), one in found.items()}, together["$defs"]


def _target(one: Schema, defs: Mapping[str, Schema]) -> Schema:
    return defs[one["$ref"].rpartition("/")[2]] if "$ref" in one else one


def _prior(kind: str, own: Schema) -> Schema:
    """Return the schema of a prior in a configuration, from the schema of its settings."""
    properties = {"kind": {"const": kind, "description": "kind of prior"}, **own["properties"]}
    if priors.find(kind).fitted:
        each = {"type": "object", "additionalProperties": False, "properties": own["properties"]}
        properties["sizes"] = {
            "description": SIZES,
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {r"^([1-9][0-9]*)x\1$": each},
        }
    return {**own, "properties": properties}


def _without(value: Any, keywords: tuple[str, ...]) -> Any:
    """Return a schema without some keywords, at any depth."""
    if isinstance(value, list):
        return [_without(one, keywords) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        if key in ("properties", "$defs"):  # their keys are names
            kept[key] = {name: _without(one, keywords) for name, one in inner.items()}
        elif key not in keywords:
            kept[key] = _without(inner, keywords)
    return kept


def _summary(one: Schema) -> str:
    return one.get("description", "").partition("\n\n")[0].replace("\n", " ")


def _table(
    one: Schema, values: Mapping[str, Any], defs: Mapping[str, Schema], shared: dict[str, Schema]
) -> Iterator[str]:
    """Yield the lines of a table of keys; add the schemas that it refers to to `shared`."""
    root = {"$defs": defs}
    yield "| Key | Value | Default | Unit | Meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for key, setting in one["properties"].items():
        target, names = _target(setting, defs), []
        for inner in (setting, setting.get("items", {}), *setting.get("items", {}).get("anyOf", [])):
            if "$ref" in inner:
                name = inner["$ref"].rpartition("/")[2]
                shared[name] = _target(inner, defs)
                names.append(f"[{name}](#{name.lower()})")
        allowed = " or ".join(names) or words({**target, "description": ""}, root)
        allowed = f"a list of {allowed}" if names and "items" in setting else allowed
        mark = " †" if setting.get("counts") else ""
        default = _cell(setting["default"] if "default" in setting else values.get(key, ""))
        meaning = setting.get("description", "").replace("|", r"\|").replace("<", r"\<")
        yield f"| `{key}`{mark} | {allowed} | {default} | {setting.get('unit', '')} | {meaning} |"
    yield ""


def _cell(value: object) -> str:
    """Return a value in YAML, or nothing if it is too long for a table."""
    if value == "" or isinstance(value, dict):
        return ""
    text = json.dumps(value) if isinstance(value, list | bool | None) else str(value)
    return f"`{text}`"


def files() -> dict[Path, str]:
    """Return the content of each generated file."""
    return {SCHEMA: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", REFERENCE: reference()}


if __name__ == "__main__":
    for file, content in files().items():
        with atomic_write(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
        print(file.relative_to(ROOT))
