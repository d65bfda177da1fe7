"""Configurations from the command line: files and values laid over config.yaml."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dwp.errors import InputError
from dwp.pipeline.config.model import Config, read
from dwp.pipeline.paths import ROOT
from dwp.pipeline.plan import Plan

WITHOUT_DEFAULTS = (
    "the workflow's config.yaml is not installed along with the library; "
    "name each configuration in use as --configfile config.yaml OVERLAY"
)


def read_config(overlays: Iterable[Path], entries: Sequence[str] = ()) -> Config:
    """Return config.yaml with overlays and values laid over it as Snakemake does.

    Args:
        overlays: files; later ones override earlier ones.
        entries: `key=value`, as for `snakemake --config`; they override the files.

    Raises:
        InputError: a file is missing or not a YAML mapping, an entry has no key, or the result is refused.
    """
    merged: dict = {}
    for file in (*defaults(), *overlays):
        merged = overlaid(merged, _read(file))
    return read(overlaid(merged, with_types(_parse(entries))))


def defaults() -> list[Path]:
    """Return the workflow's config.yaml, or nothing if dwp is installed without the workflow."""
    return [file for file in (ROOT / "config.yaml",) if file.is_file()]


def with_types(given: object) -> Any:
    """Return values of `--config` with their YAML types.

    Snakemake leaves values inside a mapping or a list as text: the number in `--config 'report={dpi: 200}'`,
    the null in `data_root=null`.
    """
    if isinstance(given, Mapping):
        return {key: with_types(value) for key, value in given.items()}
    if isinstance(given, list):
        return [with_types(value) for value in given]
    if isinstance(given, str):
        with contextlib.suppress(yaml.YAMLError):
            return yaml.safe_load(given)
    return given


def with_defaults(config: Mapping, file: str | Path) -> dict:
    """Return a configuration laid over the defaults of a file.

    Raises:
        InputError: the file is missing or not a YAML mapping.
    """
    return overlaid(_read(Path(file)), config)


def users(configurations: Iterable[tuple[Sequence[Path], Sequence[str]]]) -> dict[str, list[str]]:
    """Return the names of the configurations that refer to each version, by `<stage>/<version>`.

    Args:
        configurations: overlays and entries of each, as for `read_config`.
    """
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
    # Snakemake's own parser, so that values mean the same.
    from snakemake.cli import parse_config

    try:
        return parse_config(entries)
    except ValueError as error:
        raise InputError(f"--config: {error}") from None


def overlaid(below: object, above: Mapping) -> dict:
    """Return one mapping laid over another, key by key, as Snakemake merges configurations."""
    merged = dict(below) if isinstance(below, Mapping) else {}
    for key, value in above.items():
        merged[key] = overlaid(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged
