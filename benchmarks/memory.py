"""Peak memory of collecting kernels, by their number.

    python -m benchmarks.memory --kernels 1000000 10000000 100000000

The kernels are random, a fifth of them near zero, in a file laid out like CNN Filter DB's: a dataset `filter`
[n, 9]. It is written to --folder, with what is made of it: about 100 bytes for each kernel.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

PART = 1_000_000

TASKS = {
    "imports": "",
    "store of the workflow": (
        'store.collect([path], 3, output, threshold="otsu", test_fraction=0.2)\nPath(output).unlink()'
    ),
    "dwp.collect, a sample of 100,000": "dwp.collect(path, 3, most=100_000)",
}

SCRIPT = """
import logging, resource, sys
from pathlib import Path
import dwp
from dwp.kernels import collection, store
logging.basicConfig(level=logging.ERROR)
path, output = sys.argv[1:]
{task}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--folder", help="where files are written (default: that of temporary files)")
    options = parser.parse_args()
    # ru_maxrss is in kB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"{'kernels':>12}  {'task':34} {'peak MB':>8} {'seconds':>8}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for count in options.kernels:
            path = write(Path(folder, "dataset.h5"), count)
            for name, task in TASKS.items():
                began = time.perf_counter()
                peak = int(run(SCRIPT.format(task=task), path, Path(folder, "kernels.h5"))) * unit
                seconds = time.perf_counter() - began
                print(f"{count:12,}  {name:34} {peak / 1e6:8.0f} {seconds:8.0f}", flush=True)
            path.unlink()


def write(path: Path, count: int) -> Path:
    """Write random kernels in parts."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("filter", (count, 9), "f4")
        for first in range(0, count, PART):
            part = generator.standard_normal((min(PART, count - first), 9), dtype=np.float32)
            part[::5] *= 1e-4
            data[first : first + len(part)] = part
    return path


def run(script: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
