"""Push and pull: results copied to a shared store and from it, by checksum.

The manifest of a job is copied last, so what has a manifest is complete, and an interrupted transfer goes on
with the files that are missing. Nothing is overwritten on either side.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dwp.errors import InputError
from dwp.files import atomic_write, sha256
from dwp.pipeline.manifest import read_manifest
from dwp.pipeline.paths import RESULTS
from dwp.results.artifact_store import refuse_damaged
from dwp.results.shared_store import Store, name_of


@dataclass(frozen=True)
class Cell:
    """A finished job to copy: its manifest, and those of its files that the other side lacks."""

    manifest: Path
    text: bytes
    files: Mapping[str, str]
    """SHA-256 of each file, by its name in the folder of the manifest."""


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull has to do.

    Attributes:
        todo: the finished jobs to copy.
        there: manifests of jobs that the other side has already.
        missing: manifests that a pull does not find in the store.
        other: manifests that a pull finds there, but made by other code or from other settings.
    """

    todo: list[Cell] = field(default_factory=list)
    there: list[Path] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    other: list[Path] = field(default_factory=list)


def to_push(store: Store, manifests: Iterable[Path]) -> Transfer:
    """Return what a push of finished jobs has to do.

    Raises:
        InputError: the store has another result of one of these names; nothing is changed then.
    """
    transfer = Transfer()
    for manifest in manifests:
        content = read_manifest(manifest)
        if stored := store.manifest(manifest):
            _refuse_difference(content, stored[1], f"{store.address}/{name_of(manifest)}", manifest)
            transfer.there.append(manifest)
        else:
            transfer.todo.append(Cell(manifest, manifest.read_bytes(), content["files"]))
    return transfer


def push(store: Store, cell: Cell) -> None:
    """Copy the files of a job to the store, then its manifest.

    Raises:
        InputError: a file is missing or damaged, or see `Store.put`.
    """
    for name, digest in cell.files.items():
        refuse_damaged(cell.manifest.parent / name, digest)
    for name, digest in cell.files.items():
        store.put(cell.manifest.parent / name, digest)
    store.put(cell.manifest, hashlib.sha256(cell.text).hexdigest())


def to_pull(
    store: Store,
    manifests: Iterable[Path],
    is_wanted: Callable[[Path, dict], bool] = lambda path, content: True,
) -> Transfer:
    """Return what a pull of jobs has to do.

    Args:
        store: the store.
        manifests: manifests of the jobs, under `results/`.
        is_wanted: whether the content of a manifest is what the configuration would make.

    Raises:
        InputError: a manifest in the store is malformed, or there are other results of these names here;
            nothing is changed then.
    """
    transfer = Transfer()
    for manifest in manifests:
        _refuse_links(manifest)
        stored = store.manifest(manifest)
        if stored is None:
            transfer.missing.append(manifest)
            continue
        text, content = stored
        if not is_wanted(manifest, content):
            transfer.other.append(manifest)
            continue
        if manifest.exists():
            where = f"{store.address}/{name_of(manifest)}"
            _refuse_difference(read_manifest(manifest), content, where, manifest)
        lacking = {}
        for name, digest in content["files"].items():
            file = manifest.parent / name
            _refuse_links(file)
            if not file.exists():
                lacking[name] = digest
            elif not file.is_file() or sha256(file) != digest:
                raise InputError(
                    f"{file} is not the file of {store.address}; it is kept: delete it, then pull again"
                )
        if lacking or not manifest.exists():
            transfer.todo.append(Cell(manifest, text, lacking))
        else:
            transfer.there.append(manifest)
    return transfer


def pull(store: Store, cell: Cell) -> None:
    """Copy the files of a job from the store, then its manifest; see `Store.get`."""
    for name, digest in cell.files.items():
        store.get(cell.manifest.parent / name, digest)
    if not cell.manifest.exists():
        with atomic_write(cell.manifest) as temporary:
            temporary.write_bytes(cell.text)


_SAME = {"stage": "stage", "version": "version", "params": "parameters", "inputs": "inputs", "code": "code"}


def _refuse_difference(ours: Mapping, theirs: Mapping, where: str, manifest: Path) -> None:
    differing = [what for key, what in _SAME.items() if ours[key] != theirs[key]]
    differing += [name for name in ours["files"] if theirs["files"].get(name) != ours["files"][name]]
    differing += [name for name in theirs["files"] if name not in ours["files"]]
    # Without the paths of the files, which may be those of another machine.
    if sorted(ours.get("read", {}).values()) != sorted(theirs.get("read", {}).values()):
        differing.append("bytes of the inputs")
    if differing:
        raise InputError(
            f"{where} and {manifest} differ ({', '.join(differing)}); neither is changed: "
            "delete the one that is not wanted, or take another store"
        )


def _refuse_links(file: Path) -> None:
    for folder in file.parents:
        if folder == RESULTS:
            return
        if folder.is_symlink():
            raise InputError(f"{folder} is a link; results are pulled into folders only")
