"""Results of methods that were renamed in the configuration: copied under their new names, so no job runs.

Versions do not depend on names, but the files of cells and tunings have the method in their names and rows.
"""

import csv
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dwp.errors import StorageError
from dwp.files import atomic_write, sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest, save_manifest
from dwp.pipeline.plan import Plan

logger = logging.getLogger("dwp")


def take_new_names(plan: Plan) -> None:
    """Copy current, sound results that differ from missing ones in the name of the method only.

    Times stay. Where the folder is not writable nothing is copied, and the jobs run.
    """
    for manifest in (Path(file) for file in plan.files() if file.endswith(paths.MANIFEST)):
        if manifest.exists():
            continue
        for other in _others(manifest):
            if plan.is_current(str(other)) and (record := _sound(other)):
                try:
                    _copy(other, record, manifest)
                except StorageError as error:
                    logger.warning("Results of renamed methods are made again: %s", error)
                    return
                break


def _others(manifest: Path) -> Iterator[Path]:
    """Yield the manifests that differ from one in the name of the method only."""
    for pattern in (paths.CELL, paths.TUNING):
        if own := pattern.parse(manifest):
            for other in sorted(manifest.parent.glob(f"*.{paths.MANIFEST}")):
                fields = pattern.parse(other)
                if fields and {**fields, "method": own["method"]} == own:
                    yield other


def _sound(manifest: Path) -> dict[str, Any] | None:
    """Return the content of a manifest if all its files exist and match their checksums."""
    record = read_manifest(manifest)
    files = {manifest.parent / name: digest for name, digest in record["files"].items()}
    return (
        record if all(file.is_file() and sha256(file) == digest for file, digest in files.items()) else None
    )


def _copy(old: Path, record: Mapping[str, Any], new: Path) -> None:
    """Copy the files of a manifest under another method's name, then the manifest itself."""
    method = next(found for pattern in (paths.CELL, paths.TUNING) if (found := pattern.parse(new)))["method"]

    def renamed(name: str) -> str:
        return paths.stem(new) + name.removeprefix(paths.stem(old))

    files = {}
    for name in record["files"]:
        file = new.with_name(renamed(name))
        with atomic_write(file) as temporary:
            _write(old.with_name(name), temporary, method)
        shutil.copystat(old.with_name(name), file)
        files[file.name] = sha256(file)
    job = dict(record["job"])
    job["output"] = {role: renamed(name) for role, name in job["output"].items()}
    job["wildcards"] = {**job["wildcards"], "method": method}
    save_manifest(new, {**record, "renamed_from": old.name, "job": job, "files": files})
    shutil.copystat(old, new)


def _write(old: Path, new: Path, method: str) -> None:
    if old.suffix != ".csv":
        shutil.copyfile(old, new)
        return
    with (
        old.open(encoding="utf-8", newline="") as source,
        new.open("w", encoding="utf-8", newline="") as target,
    ):
        rows = csv.DictReader(source)
        table = csv.DictWriter(target, rows.fieldnames or (), lineterminator="\n")
        table.writeheader()
        table.writerows({**row, "method": method} for row in rows)
