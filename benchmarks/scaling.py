"""Growth of the library's time and memory with kernels, widths, networks, threads and processes.

python -m benchmarks.scaling data_root=~/data
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import tables, timing
from benchmarks.options import Options, read
from benchmarks.workloads import WORKLOADS

WIDTHS = (0.25, 0.5, 1, 2)
COUNTS = (1, 2, 4)


def main(words: list[str] | None = None) -> None:
    """Measure and print the tables."""
    options = read(__doc__, words)
    print(timing.machine(options))
    tables.table("Kernels and widths", sizes(options))
    tables.table("Networks, one after another", networks(options))
    tables.table("Threads and processes", processes(options))


def sizes(options: Options) -> Iterator[dict[str, object]]:
    """Yield time and memory of workloads of several sizes, each in a new process."""
    first, second = options.target_net
    cases = [
        ("subset", f"{n} kernels of a layer in the KL", {"subset": n})
        for n in (first * second // share or 1 for share in (64, 16, 4, 1))
    ]
    n7, n5 = options.kernels
    cases += [("vae5", f"{factor * n5} kernels", {"kernels": (n7, factor * n5)}) for factor in COUNTS]
    for name, field in (("source", "source_net"), ("subset", "target_net")):
        for width in WIDTHS:
            channels = tuple(int(width * n) for n in getattr(options, field))
            cases.append((name, f"{channels} channels", {field: channels}))
    for name, size, changes in cases:
        with timing.process() as submit:
            seconds = submit(timing.seconds, name, "ours", replace(options, **changes)).result()
            peak = submit(timing.peak, options.where).result()
        yield {
            "workload": WORKLOADS[name].title,
            "size": size,
            "ms per unit": 1e3 * seconds,
            "unit": WORKLOADS[name].unit.removesuffix("s/s"),
            "peak memory, MiB": peak,
        }


def networks(options: Options) -> Iterator[dict[str, object]]:
    """Yield time and memory of several networks that a process trains one after another."""
    for name in ("source", "subset"):
        for count in COUNTS:
            with timing.process() as submit:
                seconds = submit(one_after_another, name, count, options).result()
                peak = submit(timing.peak, options.where).result()
            yield {
                "workload": WORKLOADS[name].title,
                "networks": count,
                "ms of each": 1e3 * seconds / count,
                "peak memory, MiB": peak,
            }


def one_after_another(name: str, count: int, options: Options) -> float:
    """Return the seconds in which several networks are built and trained."""

    def call() -> None:
        for seed in range(count):
            WORKLOADS[name].ours(replace(options, seed=seed)).run()

    timing.prepared(name, "ours", options)  # reads the data
    return timing.timed(call, options)


def processes(options: Options) -> Iterator[dict[str, object]]:
    """Yield the rates of workloads with more threads, and with more processes at the same time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name in ("source", "subset"):
        alone = None
        for count, threads in dict.fromkeys([(1, 1), (1, cores), (cores, 1)]):
            rate = throughput(name, count, replace(options, threads=threads))
            alone = alone or rate
            yield {
                "workload": WORKLOADS[name].title,
                "processes": count,
                "threads of each": threads,
                f"{WORKLOADS[name].unit}": rate,
                "relative to one process with one thread": rate / alone,
            }


def throughput(name: str, count: int, options: Options) -> float:
    """Return the units per second of several processes that run a workload at the same time."""
    with contextlib.ExitStack() as stack:
        submits = [stack.enter_context(timing.process()) for _ in range(count)]
        for submit in submits:
            submit(timing.seconds, name, "ours", replace(options, seconds=0.0)).result()  # prepares it
        running = [submit(timing.seconds, name, "ours", options) for submit in submits]
        return sum(1 / one.result() for one in running)


if __name__ == "__main__":
    main()
