"""Fail each write, flush, rename and unlink of a smoke run's jobs in turn, restart, and compare the results.

    PYTHONPATH=. python tests/faults.py --table faults.csv

One point is one call that a job makes on a file of the run. At it, the call fails, or the process dies,
or the power fails: then the process dies, and of what was not flushed a random part is lost: contents of
files, and names that were made, moved or deleted in a folder. Then the job runs again, unless its files and
manifest say that it has finished. Every file must equal that of an undisturbed run, nothing may be left
over, and progress that a job had saved must still be there. Jobs run in forks of one process that has
imported everything, from what their manifests record; a short form is part of the test suite.

Writes of HDF5 and of Pillow's encoders do not pass through Python, so they are no points, but what they
have written counts as not flushed until it is.
"""

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from faulty_disk import KINDS, LOST, Disk

from dwp.errors import InputError
from dwp.files import sha256
from dwp.pipeline import manifest as manifests
from dwp.pipeline import paths
from dwp.pipeline.config.files import read_config
from dwp.pipeline.manifest import read_manifest
from dwp.pipeline.plan import Plan
from dwp.results.challenge import run_again

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = (ROOT / "config" / "smoke.yaml", ROOT / "tests" / "faults.yaml")
RECORDS = (".log", ".benchmark.tsv", ".seconds.tsv", "manifest.json")


class Point(NamedTuple):
    """The `number`-th call of the job that writes a manifest, from 1, and what happens at it."""

    manifest: Path
    number: int
    kind: str


# Jobs


def forked(work: Callable[[], int]) -> int:
    """Return the exit status of a fork of this process that does some work."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(manifest: Path, record: dict, disk: Disk | None = None, calls: int | None = None) -> int:
    """Run a job in a fork; return its exit status, or LOST if it lost progress that it had saved.

    Args:
        manifest: the job's manifest, which need not exist.
        record: its content.
        disk: what counts its calls.
        calls: a descriptor to write their number to.
    """

    def work() -> int:
        # Git and the versions of libraries take longer than most of these jobs.
        manifests._git_state, manifests._libraries = dict, dict
        if disk:
            disk.patch()
        status = 1
        with contextlib.suppress(Exception, SystemExit):
            run_again(record, manifest.parent, checkpoint_seconds=0)
            status = 0
        if calls is not None:
            os.write(calls, str(disk.calls).encode())
        return LOST if disk and disk.lost_progress() else status

    return forked(work)


def disk_of(manifest: Path, root: Path, fails_at: int = 0, kind: str = "error") -> Disk:
    """Return the disk of a job, see `Disk`; the job may change the working directory."""
    resolved = manifest.resolve()
    return Disk(root, lambda: any(checkpoints(resolved)) or finished(resolved), fails_at, kind)


def calls_of(manifest: Path, record: dict, root: Path) -> int:
    """Return how many calls the job makes."""
    reader, writer = os.pipe()
    assert run(manifest, record, disk_of(manifest, root), writer) == 0
    os.close(writer)
    with os.fdopen(reader) as file:
        return int(file.read())


def finished(manifest: Path) -> bool:
    """Return whether the files of a job say that it has finished, as they do to the workflow."""
    try:
        record = read_manifest(manifest)
    except InputError:
        return False
    return all((manifest.parent / name).exists() for name in record["files"])


def checkpoints(manifest: Path) -> list[Path]:
    """Return the checkpoints of a job."""
    return [*manifest.parent.glob(f"{paths.CHECKPOINTS}/{paths.stem(manifest)}*.pt")]


def own_files(manifest: Path) -> list[Path]:
    """Return the files of a job, with temporary files and checkpoints."""
    stem = paths.stem(manifest)
    found = {*manifest.parent.rglob(f"{stem}.*"), *manifest.parent.rglob(f".{stem}*")}
    return sorted(found.union(manifest.parent.glob(f"{paths.CHECKPOINTS}/{stem}-*")))


def clear(manifest: Path, checkpoints: bool) -> None:
    """Delete the outputs of a job, as Snakemake does before it runs; also its checkpoints."""
    for file in own_files(manifest):
        if checkpoints or file.parent.name != paths.CHECKPOINTS:
            file.unlink()


def survive(point: Point, root: Path, record: dict) -> dict:
    """Let something happen at a point of a job in this folder, restart the job, and return what was found."""
    manifest = point.manifest
    clear(manifest, checkpoints=True)
    status = run(manifest, record, disk_of(manifest, root, point.number, point.kind))
    before = finished(manifest)
    if not before:
        clear(manifest, checkpoints=False)
        restarted = run(manifest, record)
    found = {
        name: sha256(manifest.parent / name) for name in record["files"] if (manifest.parent / name).exists()
    }
    expected = {name: digest for name, digest in record["files"].items() if not name.endswith(RECORDS)}
    allowed = {manifest.parent / name for name in record["files"]} | {manifest, *paths.logs(manifest)}
    left = [file for file in own_files(manifest) if file not in allowed]
    if before:  # it is never started again, so temporary files and a checkpoint may stay
        left = [file for file in left if not paths.is_byproduct(file)]
    return {
        "stage": record["stage"],
        "job": paths.stem(manifest),
        "point": point.number,
        "kind": point.kind,
        "status": status,
        "finished": before,
        "lost": status == LOST,
        "restarted": before or restarted == 0,
        "different": sorted(name for name in expected if found.get(name) != expected[name]),
        "left": sorted(map(str, left)),
    }


def planned(plan: Plan) -> Iterator[tuple[Path, dict]]:
    """Yield each job of a plan in an order in which they can run: its manifest, and what that will record."""

    def job(file: str, inputs: dict, pattern: paths.Pattern | None, **outputs: str) -> tuple[Path, dict]:
        manifest = paths.manifest(file)
        stem = f"{paths.stem(file)}." if pattern else ""
        names = {name: f"{stem}{suffix}" for name, suffix in {**outputs, "manifest": paths.MANIFEST}.items()}
        wildcards = {
            key: value for key, value in (pattern.fields(file) if pattern else {}).items() if key != "suffix"
        }
        made = {"input": inputs, "output": names, "wildcards": wildcards, "threads": 1}
        return manifest, {**plan.spec(paths.version(file)), "files": {}, "job": made}

    def cells(found: list[str]) -> Iterator[tuple[Path, dict]]:
        for file in found:
            inputs = plan.cell_inputs(paths.version(file), paths.CELL.fields(file)["shard"])
            yield job(file, inputs, paths.CELL, rows="csv")

    for name in plan.datasets:
        yield job(plan.dataset_file(name), {}, paths.DATA, dataset="safetensors")
    outputs = {"nets": "safetensors", "table": "csv", "seconds": "seconds.tsv"}
    for file in plan.source_files():
        yield job(file, {"dataset": plan.dataset_file(plan.config.data.source)}, paths.NETS, **outputs)
    for size in plan.kernels:
        yield job(plan.kernels_file(size), {"files": plan.kernels_from()}, paths.KERNELS, store="h5")
    for name, sizes in plan.priors.items():
        for size in sizes:
            inputs = {"kernels": plan.kernels_file(size)}
            yield job(plan.prior_file(name, size), inputs, paths.PRIOR, prior="safetensors", history="csv")
    for size in plan.scores:
        yield job(
            plan.scores_file(size), plan.score_inputs(size), paths.SCORES, scores="csv", samples="samples.csv"
        )
    for key in plan.tunings:
        yield from cells(plan.trial_cells(*key))
        inputs = {"trials": plan.trial_cells(*key)}
        yield job(plan.tuning_file(*key), inputs, paths.TUNING, table="csv", chosen="json")
    for experiment in plan.config.experiments:
        yield from cells(plan.cells(experiment))
    manifest, record = job(plan.report.path(paths.MANIFEST), plan.report_inputs(), None)
    yield manifest, {**record, "files": {item.path: "" for item in plan.report_files()}}


def sound(row: dict) -> bool:
    """Return whether a point did no harm."""
    return row["restarted"] and not (row["different"] or row["left"] or row["lost"])


def jobs(root: Path) -> dict[Path, dict]:
    """Return the content of each manifest of a run, by its path in the folder."""
    return {
        file.relative_to(root): read_manifest(file)
        for file in sorted(root.glob(f"{paths.RESULTS}/*/*/*{paths.MANIFEST}"))
        if paths.LATEST not in file.relative_to(root).parents
    }


def points(root: Path, found: dict[Path, dict], most: int) -> Iterator[Point]:
    """Yield each point of each job with each kind, or `most` points of a job that has more."""
    for manifest, record in found.items():
        calls = calls_of(manifest, record, root)
        count = min(most, calls)
        for number in (1 + step * (calls - 1) // max(1, count - 1) for step in range(count)):
            for kind in KINDS:
                yield Point(manifest, number, kind)


def main() -> int:
    """Go through the points; return 1 if one of them did harm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, help="where to write a row for each point, as CSV")
    parser.add_argument("--run", type=Path, help="a folder for the run (default: a temporary one)")
    parser.add_argument("--stages", nargs="+", help="points of the jobs of these only (default: of all)")
    parser.add_argument("--most", type=int, default=60, help="points of one job (60)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # so that forks share their memory
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        root = (options.run or Path(name)).resolve()
        rows, count = 0, Counter()
        with contextlib.chdir(root):
            for manifest, record in planned(Plan(read_config(CONFIGS))):
                if not manifest.exists() and run(manifest, record):
                    raise RuntimeError(paths.logs(manifest)[0].read_text())
            found = {
                manifest: record
                for manifest, record in jobs(root).items()
                if not options.stages or record["stage"] in options.stages
            }
            for point in points(root, found, options.most):
                row = survive(point, root, found[point.manifest])
                count[row["stage"], point.kind, sound(row)] += 1
                rows += 1
                if not sound(row):
                    print(json.dumps(row), flush=True)
                if options.table:
                    pd.DataFrame([row]).to_csv(options.table, mode="a", header=rows == 1, index=False)
    for (stage, kind, good), number in sorted(count.items()):
        print(f"{stage:16} {kind:14} {number:5} {'sound' if good else 'HARMED'}")
    bad = sum(number for (_, _, good), number in count.items() if not good)
    print(f"{rows} points of {len(found)} jobs, {bad} with harm")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
