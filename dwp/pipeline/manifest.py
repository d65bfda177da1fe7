"""Manifests: JSON files beside the outputs of a job, with their provenance and checksums."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import reprlib
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dwp.errors import InputError
from dwp.files import atomic_write, sha256
from dwp.pipeline import paths

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "h5py",
    "safetensors",
    "scikit-learn",
    "scipy",
    "pandas",
    "matplotlib",
    "snakemake",
    "zuko",
    "laplace-torch",
)


DIGITS = 32
"""Hexadecimal digits of versions and code digests: sixteen bytes of a SHA-256."""


def version_of(stage: str, params: Mapping, inputs: Mapping[str, str]) -> str:
    """Return the whole version of a stage's result, from its parameters and its inputs' versions by role."""
    text = json.dumps([stage, params, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def write_manifest(path: str | Path, spec: dict, outputs: Iterable[str | Path], **facts: object) -> None:
    """Write the manifest of some files: the spec, facts of the run, library versions, checksums."""
    manifest = {
        **spec,
        **facts,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _git_state(),
        "host": platform.node(),
        "python": platform.python_version(),
        "libraries": dict(_libraries()),
        "files": {os.path.relpath(file, Path(path).parent): sha256(file) for file in outputs},
    }
    save_manifest(path, manifest)


def save_manifest(path: str | Path, content: Mapping) -> None:
    """Write a manifest with all its entries."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(path: str | Path) -> dict:
    """Return the content of a manifest.

    Raises:
        InputError: it cannot be read, or a required entry is missing or malformed, or the version is not
            that of the parameters and inputs.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a manifest: {error}") from None
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is no manifest: it holds {reprlib.repr(manifest)}")
    for key, (is_valid, expected) in _FORM.items():
        if not is_valid(manifest.get(key)) and (key in manifest or key not in _OPTIONAL):
            found = reprlib.repr(manifest.get(key))
            raise InputError(f"{path} is no manifest: {key} is {found}; expected {expected}")
    inputs = {role: label.rpartition("/")[2] for role, label in manifest["inputs"].items()}
    version = version_of(manifest["stage"], manifest["params"], inputs)
    if manifest["version"] != version:
        raise InputError(
            f"{path} was changed: its parameters and inputs give the version {version}, "
            f"not {reprlib.repr(manifest['version'])}; delete it and run again"
        )
    return manifest


def _is_time(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_printable(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_file(value: object) -> bool:
    """Return whether a value is a path that stays in its folder."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    path = PurePosixPath(value)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _is_label(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"\w+/[0-9a-f]{{{DIGITS}}}", value) is not None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _maps(is_key: Callable, is_value: Callable) -> Callable[[object], bool]:
    def is_valid(value: object) -> bool:
        return isinstance(value, dict) and all(
            is_key(key) and is_value(inner) for key, inner in value.items()
        )

    return is_valid


def _is_job(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(_maps(_is_string, is_valid)(value.get(key)) for key, is_valid in _JOB.items())
        and type(value.get("threads")) is int
        and value["threads"] > 0
    )


def _is_string_or_list(value: object) -> bool:
    return all(map(_is_string, value)) if isinstance(value, list) else _is_string(value)


_JOB = {"input": _is_string_or_list, "output": _is_file, "wildcards": _is_string}
_FORM = {
    "stage": (_is_string, "a name"),
    "version": (_is_string, "a version"),
    "params": (_maps(_is_string, lambda value: True), "a mapping"),
    "inputs": (_maps(_is_string, _is_label), "a mapping of roles to versions"),
    "code": (_is_string, "a digest"),
    "finished": (_is_time, "a time in ISO 8601, with its zone"),
    "files": (_maps(_is_file, _is_digest), "a mapping of files in its folder to their SHA-256"),
    "read": (_maps(_is_printable, _is_digest), "a mapping of files to their SHA-256"),
    "job": (_is_job, "the named files, wildcards and threads of a job"),
}


# What jobs record of themselves; earlier releases did not.
_OPTIONAL = ("read", "job")


def mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an entry of a manifest that has no fixed form; {} if it is missing or no mapping."""
    return value if isinstance(value := content.get(key), Mapping) else {}


def is_sound(path: Path, content: Mapping[str, Any]) -> bool:
    """Return whether all files of a manifest exist and match their checksums.

    Raises:
        OSError: one of them cannot be read.
    """
    files = {path.parent / name: digest for name, digest in content["files"].items()}
    return all(file.is_file() and sha256(file) == digest for file, digest in files.items())


def checked_sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file, checked against its manifest if it has one.

    Raises:
        InputError: the manifest records another.
    """
    file, digest = Path(file), sha256(file)
    try:
        recorded = read_manifest(paths.manifest(file))["files"].get(file.name, digest)
    except InputError:
        recorded = digest  # not made by this workflow
    if recorded != digest:
        raise InputError(
            f"{file} is not as it was written (SHA-256 {digest[:8]}…, its manifest says "
            f"{recorded[:8]}…); delete it and run again, and it is made anew"
        )
    return digest


def _libraries() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def _git_state() -> dict[str, object]:
    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(paths.ROOT), *words], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment may lie in the user's own repository, whose commit is not that of this package.
    if not git("ls-files", "dwp/__init__.py"):
        return {"commit": None, "clean": None}
    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if status is None else not status}
