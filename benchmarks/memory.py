"""Peak memory and time of collecting kernels, by their number.

    python -m benchmarks.memory collected='[1000000, 10000000, 100000000]'

The kernels are random, a fifth of them near zero, in a file laid out like CNN Filter DB's: a dataset `filter`
[n, 9]. With what is made of it, the file takes about 100 bytes for each kernel, in the folder TMPDIR.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

import dwp
from benchmarks import measure
from benchmarks.options import Options
from dwp.kernels import store

PART = 1_000_000


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield a row for each number of kernels and task, which has its own process."""
    with tempfile.TemporaryDirectory() as folder:
        for count in options.collected:
            path = write(Path(folder, "dataset.h5"), count)
            for task in (imports, store_of_the_workflow, sample_of_100_000):
                with measure.process() as call:
                    seconds, peak = call(measured, task, path)
                title = task.__name__.replace("_", " ")
                yield {"kernels": f"{count:,}", "task": title, "peak memory, MiB": peak, "seconds": seconds}


def imports(path: Path) -> None:
    """Do nothing."""


def store_of_the_workflow(path: Path) -> None:
    """Collect all kernels, as the workflow does."""
    store.collect([path], 3, path.with_name("kernels.h5"), threshold="otsu", test_fraction=0.2)


def sample_of_100_000(path: Path) -> None:
    """Collect a sample by `dwp.collect`."""
    dwp.collect(path, 3, most=100_000)


def measured(task: Callable[[Path], None], path: Path) -> tuple[float, float]:
    """Return the seconds of a task in this process, and the peak memory in MiB."""
    began = time.perf_counter()
    task(path)
    return time.perf_counter() - began, measure.peak()


def write(path: Path, count: int) -> Path:
    """Write random kernels in parts; return the path."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("filter", (count, 9), "f4")
        for first in range(0, count, PART):
            part = generator.standard_normal((min(PART, count - first), 9), dtype=np.float32)
            part[::5] *= 1e-4
            data[first : first + len(part)] = part
    return path


main = measure.command(__doc__, rows)

if __name__ == "__main__":
    main()
