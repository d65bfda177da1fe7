"""Provenance of artifacts: versions, code digests and manifests."""

import ast
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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dwp.errors import InputError
from dwp.files import atomic_write, sha256
from dwp.pipeline import paths, syntax
from dwp.pipeline.remembered import remembered

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


@dataclass(frozen=True, eq=False)
class Artifact:
    """One version of a stage's result, identified by parameters and inputs.

    Args:
        stage: name of the stage, the folder under `results/`.
        params: all parameters that can change its bytes, as plain JSON values.
        inputs: the artifacts that it is made from, by role.
        modules: the modules that make it; not part of the version, see `code_digest`.
        name: display name within the stage; not part of the version either.
    """

    stage: str
    params: dict
    inputs: Mapping[str, "Artifact"] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    name: str = ""

    @cached_property
    def version(self) -> str:
        """Return eight hexadecimal digits of the SHA-256 of stage, parameters and input versions."""
        inputs = {role: artifact.version for role, artifact in self.inputs.items()}
        return version_of(self.stage, self.params, inputs)

    @cached_property
    def spec(self) -> dict:
        """Return the specification of its jobs as a plain dict; a change of it triggers a rerun."""
        return {
            "stage": self.stage,
            "version": self.version,
            # Sorted, because Snakemake compares reprs.
            "params": json.loads(json.dumps(self.params, sort_keys=True)),
            "inputs": {
                role: f"{artifact.stage}/{artifact.version}" for role, artifact in self.inputs.items()
            },
            "code": code_digest(self.modules),
        }

    @property
    def folder(self) -> str:
        """Return the folder of its files, relative to the working directory."""
        return paths.VERSION.file(stage=self.stage, version=self.version)

    def path(self, file: str) -> str:
        """Return the path of one of its files, relative to the working directory."""
        return f"{self.folder}/{file}"

    def made(self, manifest: str | Path) -> bool:
        """Return whether a manifest can be read and has the same parameters, inputs and code."""
        try:
            written = read_manifest(manifest)
        except InputError:
            return False
        return all(written[key] == value for key, value in self.spec.items())


def version_of(stage: str, params: Mapping, inputs: Mapping[str, str]) -> str:
    """Return the version of a stage's result, from its parameters and its inputs' versions by role."""
    text = json.dumps([stage, params, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def code_digest(roots: Iterable[str]) -> str:
    """Return a digest of the syntax trees of modules and of everything that they import from this package.

    Comments, docstrings, descriptions of settings and formatting do not count. A package's
    `__init__` counts if something is imported from the package itself.

    Args:
        roots: `module`, or `module:name` for a function or class. For the latter, only the statements of
            the module that the name depends on count, and so for names imported from an experiment:
            titles and figures of an experiment do not affect the digest of its results.
    """
    roots = sorted(set(roots))
    key = f"code of {' '.join(roots)} in {ROOT}"
    return remembered(key, lambda: _find_digest(roots), platform.python_version())


def _find_digest(roots: list[str]) -> tuple[str, set[Path]]:
    """Return the digest, and the files and folders that it depends on."""
    found: dict[str, str] = {}
    files = {Path(__file__), Path(syntax.__file__)}
    todo = list(roots)
    while todo:
        root = todo.pop()
        if root not in found:
            file = _module_file(root.partition(":")[0])
            assert file is not None
            found[root], imports = _digest(root, file, file.stat().st_mtime_ns)
            # The folder too: an import may refer to a module that is added there later.
            files |= {file, file.parent}
            todo += imports
    parts = sorted(f"{root}:{digest}" for root, digest in found.items())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8], files


ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains this package: a checkout, or `site-packages`."""

SLICED = "dwp.experiments."
_cache: dict[tuple[str, Path, int], tuple[str, list[str]]] = {}


def _digest(root: str, file: Path, modified: int) -> tuple[str, list[str]]:
    """Return a digest of the code of a root, without its imports, and the roots that it imports."""
    key = root, file, modified
    if key not in _cache:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        body = syntax.without_prose(tree).body
        if name := root.partition(":")[2]:
            body = syntax.reached(body, name)
        digest = hashlib.sha256("\n".join(map(ast.dump, body)).encode()).hexdigest()
        _cache[key] = digest, list(_imported(body))
    return _cache[key]


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _module_file(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                # `from package import name`: the module `package.name` if there is one, else the package.
                module, names = f"{node.module}.{alias.name}", [alias.name]
                if _module_file(module):
                    names = syntax.attributes(body, alias.asname or alias.name)
                elif _module_file(node.module):
                    module = node.module
                else:
                    continue
                sliced = module.startswith(SLICED) and names
                yield from (f"{module}:{name}" for name in names) if sliced else (module,)


def _module_file(name: str) -> Path | None:
    """Return the file of a module of this package, or None for other modules."""
    if name.split(".")[0] != "dwp":
        return None
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


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
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(path: str | Path) -> dict:
    """Return the content of a manifest.

    Raises:
        InputError: it cannot be read, or a required entry is missing or malformed.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a manifest: {error}") from None
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is no manifest: it holds {reprlib.repr(manifest)}")
    for key, (is_valid, expected) in _FORM.items():
        if not is_valid(manifest.get(key)):
            found = reprlib.repr(manifest.get(key))
            raise InputError(f"{path} is no manifest: {key} is {found}; expected {expected}")
    return manifest


def _is_time(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_file(value: object) -> bool:
    """Return whether a value is a path that stays in its folder."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    path = PurePosixPath(value)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _maps(is_key: Callable, is_value: Callable) -> Callable[[object], bool]:
    def is_valid(value: object) -> bool:
        return isinstance(value, dict) and all(
            is_key(key) and is_value(inner) for key, inner in value.items()
        )

    return is_valid


_FORM = {
    "stage": (_is_string, "a name"),
    "version": (_is_string, "a version"),
    "params": (_maps(_is_string, lambda value: True), "a mapping"),
    "inputs": (_maps(_is_string, _is_string), "a mapping of roles to versions"),
    "code": (_is_string, "a digest"),
    "finished": (_is_time, "a time in ISO 8601, with its zone"),
    "files": (_maps(_is_file, _is_digest), "a mapping of files in its folder to their SHA-256"),
}


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
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment may lie in the user's own repository, whose commit is not that of this package.
    if not git("ls-files", "dwp/__init__.py"):
        return {"commit": None, "clean": None}
    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if status is None else not status}
