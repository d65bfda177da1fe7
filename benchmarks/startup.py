"""Start-up time: `import dwp`, and `snakemake -n` with many cells and no results.

python -m benchmarks.startup cells=100000 shard=100
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure
from benchmarks.options import Options

ROOT = Path(__file__).resolve().parent.parent
METHODS, SETTINGS = 5, 2  # of few_shot in config/smoke.yaml
IMPORTS = """
import torch
from time import perf_counter as now
began = now()
import dwp
bare = now()
for name in dwp.__all__:
    getattr(dwp, name)
print(bare - began, now() - began)
"""


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield the rows."""
    bare, every = map(float, run(sys.executable, "-c", IMPORTS).split())
    yield {"command": "import dwp, after torch", "seconds": bare}
    yield {"command": "the same, and every name in it", "seconds": every}
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder, "cells.yaml")
        seeds = options.cells // (METHODS * SETTINGS)
        overlay.write_text(f"experiments: {{few_shot: {{seeds: {seeds}, shard: {options.shard}}}}}\n")
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        command += ["--directory", folder, "--configfile", str(ROOT / "config" / "smoke.yaml"), str(overlay)]
        began = time.perf_counter()
        planned = run(*command, "--dry-run")
        seconds = time.perf_counter() - began
        jobs = re.search(r"^total +(\d+)", planned, re.M)[1]
        yield {"command": f"snakemake -n, {jobs} jobs", "seconds": seconds}


def run(*command: str) -> str:
    """Run a command with dwp from this checkout; return its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, env=environment, text=True, check=False, **both)
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    return done.stdout


main = measure.command(__doc__, rows)

if __name__ == "__main__":
    main()
