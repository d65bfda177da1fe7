"""Results of methods that were renamed in the configuration: copied under their new names, so no job runs.

Versions do not depend on names, but the files of cells and tunings have the method in their names and rows.
"""

import csv
import itertools
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwp.files import atomic_write, sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import is_sound, read_manifest, save_manifest
from dwp.pipeline.plan import Plan
from dwp.pipeline.shards import siblings

logger = logging.getLogger("dwp")


def take_new_names(plan: Plan) -> None:
    """Copy current, sound results that differ from missing ones in the name of the method only.

    Times stay. Where the folder is not writable nothing is copied, and the jobs run.
    """
    missing = [
        Path(file) for file in plan.files() if file.endswith(paths.MANIFEST) and not Path(file).exists()
    ]
    for manifest, pattern in itertools.product(missing, (paths.CELL, paths.TUNING)):
        if not (fields := pattern.parse(manifest)):
            continue
        for other, _ in siblings(manifest, pattern, ("method",)):
            if not plan.is_current(str(other)):
                continue
            record = read_manifest(other)
            try:
                if "job" in record and is_sound(other, record):
                    _copy(other, record, manifest, fields["method"])
                    break
            except OSError as error:
                logger.warning("Results of renamed methods are made again: %s", error)
                return


def _copy(old: Path, record: Mapping[str, Any], new: Path, method: str) -> None:
    """Copy the files of a manifest under another method's name, then the manifest itself."""

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
