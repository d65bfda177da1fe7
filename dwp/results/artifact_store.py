"""Versions under `results/`: listing, lookup, verification and removal."""

import datetime
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.files import sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest
from dwp.pipeline.paths import RESULTS

FIRST, LAST = ("data", "source", "kernels", "priors", "scores", "tuning"), ("report",)
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Version:
    """One version of a stage: the folder `results/<stage>/<version>`.

    Attributes:
        folder: the version's folder.
        manifests: content of each manifest, by file; None if it cannot be read.
        files: all other files in the folder.
        linked: its names under `results/latest`.
    """

    folder: Path
    manifests: dict[Path, dict | None]
    files: tuple[Path, ...]
    linked: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """Return the name of the stage."""
        return self.folder.parent.name

    @property
    def label(self) -> str:
        """Return `<stage>/<version>`, the form in which commands refer to it."""
        return f"{self.stage}/{self.folder.name}"

    @property
    def spec(self) -> dict:
        """Return `params`, `inputs` (labels) and `code` from a manifest; empty before the first job ends."""
        manifest = next(filter(None, self.manifests.values()), None)
        if manifest is None:
            return {}
        inputs = {role: paths.short(label) for role, label in manifest["inputs"].items()}
        return {"params": manifest["params"], "inputs": inputs, "code": manifest["code"]}

    @property
    def names(self) -> list[str]:
        """Return its display names: under `results/latest`, or else file stems without setting and shard."""
        return sorted(set(self.linked or filter(None, map(paths.name, self.manifests))))

    @cached_property
    def size(self) -> int:
        """Return the total size of its files, in bytes."""
        return sum(path.stat().st_size for path in (*self.manifests, *self.files) if path.is_file())

    @property
    def finished(self) -> datetime.datetime | None:
        """Return the time at which its latest job finished, or None before the first."""
        times = [manifest["finished"] for manifest in self.manifests.values() if manifest]
        return max(map(datetime.datetime.fromisoformat, times), default=None)

    @property
    def recorded_files(self) -> Iterator[tuple[Path, str]]:
        """Yield each file that a manifest records, whether it exists or not, with its SHA-256."""
        for manifest in self.manifests.values():
            for name, digest in (manifest or {}).get("files", {}).items():
                yield self.folder / name, digest

    @cached_property
    def unrecorded_files(self) -> list[Path]:
        """Return the files that no manifest records: those of running or killed jobs, or of a lost manifest.

        Logs and benchmarks of finished jobs are left out, and so are the files of a manifest that cannot be
        read.
        """
        known = {file for file, _ in self.recorded_files}
        for manifest in self.manifests:
            known.update(paths.logs(manifest))
        unreadable = [paths.stem(path) for path, manifest in self.manifests.items() if manifest is None]

        def has_unreadable_manifest(file: Path) -> bool:
            return any(not stem or file.name.startswith(f"{stem}.") for stem in unreadable)

        return [file for file in self.files if file not in known and not has_unreadable_manifest(file)]

    def may_be_in_progress(self, now: float) -> bool:
        """Return whether a job may be writing here: unfinished, and changed less than a day ago."""
        if self.manifests and not self.unrecorded_files:
            return False
        times = [path.stat().st_mtime for path in (self.folder, *self.unrecorded_files) if path.exists()]
        return now - max(times, default=0.0) < DAY


def read() -> list[Version]:
    """Return all versions in pipeline order, and by age within a stage.

    Symbolic links, which may point outside `results/`, are skipped, and so are folders that only look
    like a version: the stage is unknown and there is no manifest.

    Raises:
        InputError: `results/` does not exist.
    """
    if not RESULTS.is_dir():
        raise InputError(
            f"there is no folder {RESULTS} in {Path.cwd()}; run the workflow, or give --directory"
        )
    folders = [
        folder
        for folder in RESULTS.glob("*/*")
        if paths.VERSION.parse(folder)
        and folder.is_dir()
        and not folder.is_symlink()
        and not folder.parent.is_symlink()
    ]
    links: dict[Path, list[str]] = {}
    for link in filter(Path.is_symlink, paths.LATEST.glob("*/*")):
        links.setdefault(link.resolve(), []).append(link.name)
    found = [_read_one(folder, links.get(folder.resolve(), ())) for folder in folders]
    stages = (*FIRST, *experiments.known(), *LAST)
    return sorted((version for version in found if version.manifests or version.stage in stages), key=_order)


def _read_one(folder: Path, linked: Iterable[str]) -> Version:
    manifests, files = {}, []
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(paths.MANIFEST) and not path.name.startswith("."):
            manifests[path] = _read_manifest(path, folder)
        elif not path.is_dir() or path.is_symlink():
            files.append(path)
    return Version(folder, manifests, tuple(files), tuple(linked))


def _read_manifest(path: Path, folder: Path) -> dict | None:
    try:
        manifest = read_manifest(path)
    except InputError:
        return None
    found = manifest["stage"], paths.short(manifest["version"])
    return manifest if found == (folder.parent.name, folder.name) else None


def _order(version: Version) -> tuple:
    stage = version.stage
    place = FIRST.index(stage) if stage in FIRST else len(FIRST) + (stage in LAST)
    return place, stage, version.finished is None, version.finished, version.names, version.label


def find(versions: Iterable[Version], name: str) -> Version:
    """Return the version that a name refers to.

    Args:
        versions: the versions to search.
        name: a version or its unique beginning, `<stage>/<version>`, the folder or a link to it,
            or a name under `results/latest` (`priors/vae-7x7`).

    Raises:
        InputError: no version matches, or more than one.
    """
    versions = list(versions)
    for place in (Path(name), paths.LATEST / name):
        if place.is_dir():
            for version in versions:
                if version.folder.resolve() == place.resolve():
                    return version
    stage, _, start = name.rstrip("/").rpartition("/")
    found = [
        version
        for version in versions
        if start and version.folder.name.startswith(start) and stage in ("", version.stage)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{name!r} is not unique: {', '.join(version.label for version in found)}")
    raise InputError(f"there is no version {name!r} in {RESULTS}; `dwp versions` lists them")


def verify(
    versions: Iterable[Version], *, running: bool = False, now: float | None = None
) -> tuple[list[dict], int]:
    """Recompute the checksum of every file that a manifest records.

    Args:
        versions: the versions to check.
        running: whether a workflow is running here, so that a manifest may not have been written yet.
        now: the time in seconds since the epoch.

    Returns:
        the faults, a list of {file, fault}, and the number of files that match their manifest. A fault is
        `missing`; `damaged`; `no manifest`, for a result that no manifest records; or `unfinished`, for
        files of an unfinished job: logs, checkpoints and temporary files, and results while `running`.
    """
    now = time.time() if now is None else now
    faults, sound = [], 0
    for version in versions:
        for path, manifest in version.manifests.items():
            if manifest is None:
                faults.append({"file": str(path), "fault": "damaged"})
        for file, digest in version.recorded_files:
            if not os.path.isfile(file):  # also false for an invalid file name
                faults.append({"file": str(file), "fault": "missing"})
            elif sha256(file) != digest:
                faults.append({"file": str(file), "fault": "damaged"})
            else:
                sound += 1
        in_progress = running and version.may_be_in_progress(now)
        for file in version.unrecorded_files:
            fault = "unfinished" if in_progress or paths.is_byproduct(file) else "no manifest"
            faults.append({"file": str(file), "fault": fault})
    return faults, sound


def refuse_damaged(file: Path, digest: str) -> None:
    """Raise InputError if a file is missing or has another SHA-256 than its manifest says."""
    if not file.is_file() or sha256(file) != digest:
        raise InputError(f"{file} is missing or not as it was written; delete it and run the workflow")


def unreferenced(
    versions: Iterable[Version], referenced: Collection[str], now: float | None = None
) -> tuple[list[Version], list[Version]]:
    """Return versions that no configuration refers to: those to remove, and those that a job may be writing.

    Args:
        versions: the versions to choose from.
        referenced: labels of the versions that configurations refer to.
        now: the time in seconds since the epoch.
    """
    now = time.time() if now is None else now
    remove: list[Version] = []
    keep: list[Version] = []
    for version in versions:
        if version.label not in referenced:
            (keep if version.may_be_in_progress(now) else remove).append(version)
    return remove, keep


def remove(versions: Iterable[Version]) -> None:
    """Delete versions, and dangling links in `results/latest`; nothing outside `results/`."""
    for version in versions:
        shutil.rmtree(version.folder)
    for link in sorted(paths.LATEST.rglob("*"), reverse=True):
        if link.is_symlink():
            if not link.exists():
                link.unlink(missing_ok=True)
        elif link.is_dir() and not any(link.iterdir()):
            link.rmdir()
