"""Measurement by torch.utils.benchmark, in turns and in processes of their own; tables with spreads."""

import contextlib
import ctypes
import functools
import gc
import logging
import math
import multiprocessing
import os
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from scipy.stats import t as student_t
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.optimisations import disabled
from benchmarks.options import Options, read
from benchmarks.workloads import WORKLOADS, Run
from dwp.errors import InputError
from dwp.nn.autotuning import processor
from dwp.nn.precision import choose_precision
from dwp.pipeline.environment import MEMORY

Row = Mapping[str, object]
Call = Callable[..., object]


def command(doc: str | None, rows: Callable[[Options], Iterable[Row]], defaults: str = "") -> Call:
    """Return the main function of a benchmark, which reads options and prints a table of rows."""

    def main(words: list[str] | None = None) -> None:
        options = read(doc, words, defaults)
        try:
            table(machine(options), rows(options))
        except InputError as error:
            raise SystemExit(f"error: {error}") from None

    return main


@contextlib.contextmanager
def process(kept: bool = True) -> Iterator[Call]:
    """Yield a function that calls another in a new process, with the memory settings of jobs or without."""
    environment = {name: value for name, value in os.environ.items() if name not in MEMORY}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with patch.dict(os.environ, environment | (MEMORY if kept else {}), clear=True):
            pool.submit(gc.collect).result()  # starts it
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def prepare(name: str, side: str, options: Options) -> Run:
    """Return one side of a workload, `ours` or `recipe`, ready to run in this process."""
    logging.getLogger("dwp").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)

    def within(call: Call) -> Call:
        def run(*arguments: object) -> object:
            with disabled(options.without):
                return call(*arguments)

        return run

    ready = within(getattr(WORKLOADS[name], side))(options)
    return ready._replace(run=within(ready.run), evaluate=within(ready.evaluate))


@functools.cache
def prepared(name: str, side: str, options: Options) -> Run:
    """Return the same, kept for further calls, after forgetting the peak of memory."""
    run = prepare(name, side, options)
    gc.collect()
    if options.where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(AttributeError, OSError):  # Linux only
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
    return run


def peak(device: str = "cpu") -> float:
    """Return the peak memory so far in MiB: of this process (Linux only), or of its tensors on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: on Linux its maximum includes that of the parent process.
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**10 if status.exists() else math.nan


def seconds(name: str, side: str, options: Options) -> float:
    """Return the median time per unit of a workload, after an untimed run."""
    run = prepared(name, side, options)
    return timed(run.run, options) / run.amount


def timed(call: Call, options: Options) -> float:
    """Return the median time of a call in seconds, after an untimed one."""
    timer = Timer("call()", globals={"call": call}, num_threads=options.threads)
    return timer.blocked_autorange(min_run_time=options.seconds).median


def flops(name: str, options: Options) -> float:
    """Return the operations of matrix products and convolutions that the recipe needs for a unit."""
    run = prepare(name, "recipe", replace(options, source_steps=1, vae_steps=1, target_steps=1))
    with FlopCounterMode(display=False) as counter:
        run.run()
    return counter.get_total_flops() / run.amount


def product_rate(options: Options, precision: str) -> float:
    """Return the operations per second of a square matrix product: what counts as the machine's peak."""
    n, dtype = options.product, choose_precision(precision, options.where)
    a = torch.randn(n, n, device=options.where).to(dtype)
    return 2 * n**3 / timed(lambda: a @ a, options)


def in_turns(calls: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Call each function once a turn, so that changes in the machine's speed affect all; return the results.

    Every other turn is in reverse order.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns):
        for name in list(calls) if turn % 2 == 0 else reversed(calls):
            found[name].append(calls[name]())
    return found


def machine(options: Options) -> str:
    """Return one line that describes the machine and the software."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, text=True, capture_output=True, check=False).stdout.strip() or "unknown"
    gpu = f"{torch.cuda.get_device_name()}, " if options.where.type == "cuda" else ""
    matrix = ", bf16 matrix units" if torch.cpu._is_amx_tile_supported() else ""
    units = f"{torch.backends.cpu.get_cpu_capability()}{matrix}, {os.cpu_count()} cores"
    name = f"{gpu}{processor()}, {units}, {options.threads} threads"
    return f"{name}, torch {torch.__version__}, commit {commit}"


def table(title: str, rows: Iterable[Row]) -> None:
    """Print a Markdown table, each row as soon as it is known."""
    print(f"\n## {title}\n")
    for count, row in enumerate(rows):
        if not count:
            print(f"| {' | '.join(row)} |\n{'|---' * len(row)}|")
        cells = (number(cell) if isinstance(cell, float) else str(cell) for cell in row.values())
        print(f"| {' | '.join(cells)} |", flush=True)


def number(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Return 'median (smallest–largest)'."""
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval by Student's t; NaN for lack of values."""
    n = len(values)
    half = student_t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5 if n > 1 else math.nan
    return statistics.fmean(values) if n else math.nan, half
