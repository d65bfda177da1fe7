"""Versions and code digests of artifacts."""

import ast
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dwp.errors import InputError
from dwp.pipeline import paths, syntax
from dwp.pipeline.cache import cached
from dwp.pipeline.manifest import DIGITS, read_manifest, version_of
from dwp.pipeline.paths import ROOT


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
    def digest(self) -> str:
        """Return its whole version, as in manifests; see `version_of`."""
        inputs = {role: artifact.digest for role, artifact in self.inputs.items()}
        return version_of(self.stage, self.params, inputs)

    @property
    def version(self) -> str:
        """Return its version as people and folders name it: the first digits of `digest`."""
        return paths.short(self.digest)

    @cached_property
    def spec(self) -> dict:
        """Return the specification of its jobs as a plain dict; a change of it triggers a rerun."""
        return {
            "stage": self.stage,
            "version": self.digest,
            # Sorted, because Snakemake compares reprs.
            "params": json.loads(json.dumps(self.params, sort_keys=True)),
            "inputs": {role: f"{artifact.stage}/{artifact.digest}" for role, artifact in self.inputs.items()},
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
        return self.matches(written)

    def matches(self, manifest: Mapping) -> bool:
        """Return whether the content of a manifest has the same parameters, inputs and code."""
        return all(manifest[key] == value for key, value in self.spec.items())


def by_version(artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    """Return artifacts by version; identical ones are one entry.

    Raises:
        InputError: two different artifacts have versions that begin with the same digits.
    """
    found: dict[str, Artifact] = {}
    for artifact in artifacts:
        other = found.setdefault(artifact.version, artifact)
        if other.digest != artifact.digest:
            raise _collision(artifact, f"{other.stage}/{other.digest}")
    return found


def refuse_others_in_folders(artifacts: Iterable[Artifact]) -> None:
    """Refuse folders in which another artifact lies, whose version begins with the same digits.

    Raises:
        InputError: there is one.
    """
    for artifact in artifacts:
        for manifest in Path(artifact.folder).glob(f"*{paths.MANIFEST}"):
            try:
                found = read_manifest(manifest)["version"]
            except InputError:
                continue  # its job runs again
            if found != artifact.digest and paths.short(found) == artifact.version:
                raise _collision(artifact, f"{manifest}, of version {found},")
            break


def _collision(artifact: Artifact, other: str) -> InputError:
    return InputError(
        f"{artifact.stage}/{artifact.version} would be the folder of two artifacts: {other} and "
        f"{artifact.stage}/{artifact.digest} begin with the same digits; change a parameter of one slightly"
    )


def code_digest(roots: Iterable[str]) -> str:
    """Return a digest of the syntax trees of modules and of everything that they import from this package.

    Comments, docstrings, descriptions of settings and formatting do not count. A package's
    `__init__` counts if something is imported from the package itself.

    Args:
        roots: `module`, or `module:name` for a function or class. For the latter, only the statements of
            the module that the name depends on count, and so for each imported name: titles and figures of an
            experiment do not affect the digest of its results, nor Bayesian layers that of source networks,
            which predict by a function of the same module.
    """
    roots = sorted(set(roots))
    key = f"code of {' '.join(roots)} in {ROOT}"
    return cached(key, lambda: _find_digest(roots), platform.python_version())


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
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS], files


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
                yield from (f"{module}:{name}" for name in names) if names else (module,)


def _module_file(name: str) -> Path | None:
    """Return the file of a module of this package, or None for other modules."""
    if name.split(".")[0] != "dwp":
        return None
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
