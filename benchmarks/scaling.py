"""Growth of the library's time and memory with kernels, widths and networks; threads and processes.

    python -m benchmarks.scaling data_root=~/data

Each row has a new process; the last rows have several at the same time.
"""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from benchmarks import measure
from benchmarks.options import Options
from benchmarks.workloads import WORKLOADS


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield time and memory of each size, and the time of several threads and processes."""
    pairs = options.target_net[0] * options.target_net[1]
    small, large = options.vae_kernels
    cases = [
        *(("subset", {"target_subset": max(1, pairs // share)}) for share in (64, 16, 4, 1)),
        *(("vae5", {"vae_kernels": (small, factor * large)}) for factor in (1, 2, 4)),
        *(("source", {"source_net": scaled(options.source_net, width)}) for width in (0.25, 0.5, 1)),
        *(("subset", {"target_net": scaled(options.target_net, width)}) for width in (0.25, 0.5, 1, 2)),
    ]
    for name, changes in cases:
        with measure.process() as call:
            seconds = call(measure.seconds, name, "ours", replace(options, **changes))
            ((size, value),) = changes.items()
            yield row(name, f"{size} {value}", seconds, call(measure.peak, options.where.type))
    for name in ("source", "subset"):
        for count in (1, 2, 4):
            with measure.process() as call:
                seconds = call(one_after_another, name, count, options)
                size = f"{count} networks, one after another"
                yield row(name, size, seconds, call(measure.peak, options.where.type))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name in ("source", "subset"):
        for count, threads in dict.fromkeys([(1, 1), (1, cores), (cores, 1)]):
            seconds = together(name, count, replace(options, threads=threads))
            yield row(name, f"processes: {count}, threads of each: {threads}", seconds)


def scaled(channels: tuple[int, int], width: float) -> tuple[int, int]:
    """Return the channels times a factor."""
    return int(width * channels[0]), int(width * channels[1])


def row(name: str, size: str, seconds: float, peak: float | str = "") -> dict[str, object]:
    """Return a row of the table."""
    unit = WORKLOADS[name].unit.removesuffix("s/s")
    title = f"{WORKLOADS[name].title}, one {unit}"
    return {"workload": title, "size": size, "ms": 1e3 * seconds, "peak memory, MiB": peak}


def one_after_another(name: str, count: int, options: Options) -> float:
    """Return the seconds per unit of several networks that are built and trained in this process."""
    amount = measure.prepared(name, "ours", options).amount  # reads the data

    def call() -> None:
        for seed in range(count):
            WORKLOADS[name].ours(replace(options, seed=seed)).run()

    return measure.timed(call, options) / count / amount


def together(name: str, count: int, options: Options) -> float:
    """Return the seconds per unit of several processes that run a workload at the same time."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(count) as threads:
        calls = [stack.enter_context(measure.process()) for _ in range(count)]
        for call in calls:
            call(measure.seconds, name, "ours", options)  # prepares it
        found = threads.map(lambda call: call(measure.seconds, name, "ours", options), calls)
        return 1 / sum(1 / seconds for seconds in found)


main = measure.command(__doc__, rows)

if __name__ == "__main__":
    main()
