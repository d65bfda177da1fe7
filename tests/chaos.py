"""Kill runs of the smoke workflow at random moments, rerun each to its end, and compare every artifact.

    python tests/chaos.py --kills 50 --table kills.csv

Each round copies the results of a finished reference run, deletes those of one job, and starts
the workflow. At a random moment of that job's work, the job alone or the whole run gets SIGTERM or
SIGKILL; if the job has ended by then, the round is repeated with an earlier moment. Then the
workflow runs again, and every artifact must equal that of the reference, byte for byte, with no
other files left. A short form is part of the test suite; here training takes longer (chaos.yaml).
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
# Records of how and when a file was made, or how long it took, which differ between runs.
RECORDS = (".log", ".benchmark.tsv", ".seconds.tsv", "manifest.json")
NO_ARTIFACTS = {".claims", ".cache.json", "latest"}
LONG = ("source", "priors", "few_shot", "convergence", "random_features", "image_vae")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
VICTIMS = ("job", "run")
# Frequent, so that most killed jobs can resume from one.
CHECKPOINTS = "checkpoint_seconds=0.1"
SMOKE = (ROOT / "config" / "smoke.yaml",)
LONGER = (*SMOKE, ROOT / "tests" / "chaos.yaml")


class Kill(NamedTuple):
    """A kill: its victim, its signal, and its time, `after` seconds into the job that makes `manifest`."""

    manifest: Path
    victim: str
    signal: signal.Signals
    after: float


def snakemake(folder: Path, configs: Sequence[Path], *words: str) -> subprocess.Popen:
    """Start the workflow in a folder, in a new process group."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    command += ["--directory", str(folder), "--configfile", *map(str, configs)]
    output = (folder / "run.log").open("ab")
    return subprocess.Popen(
        [*command, "--config", CHECKPOINTS, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(folder: Path, configs: Sequence[Path]) -> None:
    """Run the workflow to its end; raise RuntimeError if it fails."""
    if snakemake(folder, configs).wait():
        log = (folder / "run.log").read_text()
        raise RuntimeError(f"the workflow failed in {folder}:\n{log[-3000:]}")


def kills(reference: Path, count: int, seed: int) -> Iterator[Kill]:
    """Yield random kills, spread evenly over the long stages, the signals and the victims."""
    generator = random.Random(seed)
    for index in range(count):
        stage = LONG[index % len(LONG)]
        manifest = generator.choice(sorted(reference.glob(f"results/{stage}/*/*.manifest.json")))
        seconds = json.loads(manifest.read_text())["seconds"]
        yield Kill(
            manifest.relative_to(reference),
            VICTIMS[index // 2 // len(LONG) % 2],
            SIGNALS[(index + index // len(LONG)) % 2],
            generator.uniform(0, seconds),
        )


def artifacts(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file under `results` except records, by path."""
    sys.path.insert(0, str(ROOT))
    from dwp.files import sha256

    results = folder / "results"
    return {
        str(path.relative_to(results)): sha256(path)
        for path in sorted(results.rglob("*"))
        if path.is_file() and not path.name.endswith(RECORDS) and not NO_ARTIFACTS & {*path.parts}
    }


def survive(reference: Path, kill: Kill, configs: Sequence[Path] = SMOKE) -> dict:
    """Carry out one kill on a copy of the reference, a run of these configurations; return its table row."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name) / "run"
        shutil.copytree(reference, folder, symlinks=True)
        stem = kill.manifest.name.removesuffix(".manifest.json")
        for file in (folder / kill.manifest).parent.glob(f"{stem}.*"):
            file.unlink()
        run, log = snakemake(folder, configs), folder / kill.manifest.with_name(f"{stem}.log")
        hit = _strike(run, log, kill)
        run.wait()
        if kill.victim == "run":
            snakemake(folder, configs, "--unlock").wait()
        before = list((folder / kill.manifest).parent.glob("checkpoints/*.pt"))
        finish(folder, configs)
        expected, found = artifacts(reference), artifacts(folder)
        return {
            "stage": kill.manifest.parts[1],
            "job": stem,
            "victim": kill.victim,
            "signal": kill.signal.name,
            "seconds": round(kill.after, 2),
            "hit": hit,
            "checkpoints": len(before),
            "resumed": bool(re.search(r": resumed at step", log.read_text())),
            "artifacts": len(expected),
            "different": sorted(path for path in expected if found.get(path) != expected[path]),
            "left": sorted(found.keys() - expected.keys()),
        }


def _strike(run: subprocess.Popen, log: Path, kill: Kill) -> bool:
    """Kill at the given time; return whether the job was still running."""
    while run.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    time.sleep(kill.after)
    working = run.poll() is None and "done in" not in log.read_text()
    with contextlib.suppress(ProcessLookupError):
        if kill.victim == "run":
            os.killpg(run.pid, kill.signal)
        else:
            for pid in _writers(log):
                os.kill(pid, kill.signal)
    return working


def _writers(file: Path) -> list[int]:
    """Return the processes that have a file open."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.readlink() == file.resolve():
                found.append(int(descriptor.parts[2]))
    return found


def main() -> int:
    """Carry out the kills; return 1 if an artifact differed or anything was left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many (50)")
    parser.add_argument("--seed", type=int, default=0, help="of jobs and moments (0)")
    parser.add_argument("--table", type=Path, help="where to write a row for each kill, as CSV")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        reference = Path(name)
        finish(reference, LONGER)
        moments = random.Random(options.seed)
        for kill in kills(reference, options.kills, options.seed):
            while not (row := survive(reference, kill, LONGER))["hit"]:
                kill = kill._replace(after=moments.uniform(0, kill.after))
            rows.append(row)
            print(json.dumps(rows[-1]), flush=True)
            if options.table:
                pd.DataFrame(rows).to_csv(options.table, index=False)
    table = pd.DataFrame(rows)
    bad = (table["different"].str.len() > 0) | (table["left"].str.len() > 0)
    groups = table.groupby(["stage", "signal"])
    print(groups[["resumed"]].sum().assign(kills=groups.size()).to_string())
    print(f"{len(table)} kills, {int(bad.sum())} with a difference")
    return int(bad.any())


if __name__ == "__main__":
    sys.exit(main())
