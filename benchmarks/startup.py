"""Start-up time: `snakemake -n` with many cells, and `import dwp`.

    python benchmarks/startup.py --cells 2000
    python benchmarks/startup.py --cells 100000 --shard 100

The files of the cells are empty and recorded by `snakemake --touch`; nothing is trained.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METHODS, SETTINGS = 5, 2  # of few_shot in config/smoke.yaml

IMPORT = """
import time, torch
began = time.perf_counter()
import dwp
imported = time.perf_counter()
for name in dwp.__all__:
    getattr(dwp, name)
print(imported - began, time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cells",
        type=int,
        default=2000,
        help="seeds of few_shot, methods and settings together (default: 2000)",
    )
    parser.add_argument("--shard", type=int, default=1, help="seeds in one job (default: 1)")
    parser.add_argument("--repeats", type=int, default=3, help="dry runs to time (default: 3)")
    options = parser.parse_args()

    bare, all_names = map(float, run(sys.executable, "-c", IMPORT).split())
    print(f"import dwp, after torch: {bare:.3f} s; with every name in it: {all_names:.3f} s")

    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder, "cells.yaml")
        seeds = options.cells // (METHODS * SETTINGS)
        overlay.write_text(f"experiments: {{few_shot: {{seeds: {seeds}, shard: {options.shard}}}}}\n")
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        command += ["--directory", folder, "--configfile", str(ROOT / "config" / "smoke.yaml"), str(overlay)]

        began = time.perf_counter()
        planned = run(*command, "--dry-run")
        print(f"snakemake -n, nothing made: {time.perf_counter() - began:.1f} s")
        outputs = [
            name for line in re.findall(r"^    output: (.*)$", planned, re.M) for name in line.split(", ")
        ]
        for name in outputs:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        run(*command, "--touch")
        for _ in range(options.repeats):
            began = time.perf_counter()
            again = run(*command, "--dry-run")
            seconds = time.perf_counter() - began
            assert "Nothing to be done" in again, again[-3000:]
            print(f"snakemake -n, all {len(outputs)} files made: {seconds:.1f} s")


def run(*command: str) -> str:
    """Run a command with dwp from this checkout; return its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    return done.stdout


if __name__ == "__main__":
    main()
