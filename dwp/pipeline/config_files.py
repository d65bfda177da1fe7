"""Configurations as they are given on a command line: files and values laid over config.yaml."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from dwp.errors import InputError
from dwp.pipeline.provenance import ROOT

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def read_config(overlays: Iterable[Path], entries: Sequence[str] = ()) -> dict:
    """Return config.yaml with overlays and values laid over it as Snakemake does, held against the schema.

    Args:
        overlays: files, the later above the earlier.
        entries: `key=value`, as `snakemake --config` takes them; above the files.

    Raises:
        InputError: a file is missing, is no YAML mapping, an entry has no key, or the schema
            refuses the result.
    """
    from dwp.pipeline.config import validate

    config: dict = {}
    for file in (ROOT / "config.yaml", *overlays):
        config = _overlaid(config, _read(file))
    config = _overlaid(config, _parse(entries))
    validate(config, SCHEMA)
    return config


def with_defaults(config: Mapping, file: str | Path) -> dict:
    """Return a configuration laid over the defaults of a file.

    Raises:
        InputError: the file is missing or is no YAML mapping.
    """
    return _overlaid(_read(Path(file)), config)


def users(configurations: Iterable[tuple[Sequence[Path], Sequence[str]]]) -> dict[str, list[str]]:
    """Return the names of the configurations that refer to a version, by `<stage>/<version>`.

    Args:
        configurations: what is laid over config.yaml, as `read_config` takes it.
    """
    from dwp.pipeline.plan import Plan

    found: dict[str, list[str]] = {}
    for overlays, entries in configurations:
        name = " ".join(["+".join(file.stem for file in overlays) or "config.yaml", *entries])
        for artifact in Plan(read_config(overlays, entries)).artifacts.values():
            found.setdefault(f"{artifact.stage}/{artifact.version}", []).append(name)
    return found


def _read(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the configuration {file}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict | None):
        raise InputError(f"the configuration {file} is no mapping of keys to values")
    return content or {}


def _parse(entries: Sequence[str]) -> dict:
    if not entries:
        return {}
    # Snakemake's own, so that a value means here what it means there.
    from snakemake.cli import parse_config

    try:
        return parse_config(entries)
    except ValueError as error:
        raise InputError(f"--config: {error}") from None


def _overlaid(below: object, above: Mapping) -> dict:
    merged = dict(below) if isinstance(below, Mapping) else {}
    for key, value in above.items():
        merged[key] = _overlaid(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged
