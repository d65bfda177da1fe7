"""Measurement by torch.utils.benchmark: in turns, each side in its own process."""

import contextlib
import ctypes
import functools
import gc
import logging
import multiprocessing
import os
import platform
import re
import subprocess
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.optimisations import disabled
from benchmarks.options import Options
from benchmarks.workloads import WORKLOADS, Run
from dwp.nn.precision import choose_precision
from dwp.pipeline.environment import MEMORY

Submit = Callable[..., Future]


@contextlib.contextmanager
def process(kept: bool = True) -> Iterator[Submit]:
    """Yield the `submit` of a new process, with the memory settings of the workflow's jobs or without."""
    environment = {name: value for name, value in os.environ.items() if name not in MEMORY}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with patch.dict(os.environ, environment | (MEMORY if kept else {}), clear=True):
            pool.submit(gc.collect).result()  # starts it
        yield pool.submit


def prepare(name: str, side: str, options: Options) -> Run:
    """Return one side of a workload, `ours` or `recipe`, which runs in this process."""
    logging.getLogger("dwp").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    with disabled(options.without):
        ready = getattr(WORKLOADS[name], side)(options)

    def within(call: Callable) -> Callable:
        def run(*arguments: object) -> object:
            with disabled(options.without):
                return call(*arguments)

        return run

    return ready._replace(run=within(ready.run), evaluate=within(ready.evaluate))


@functools.cache
def prepared(name: str, side: str, options: Options) -> Run:
    """Return the same, kept for further calls; forget the peak of memory before."""
    run = prepare(name, side, options)
    forget_peak(options.where)
    return run


def seconds(name: str, side: str, options: Options) -> float:
    """Return the median time per unit of a workload, after an untimed run."""
    run = prepared(name, side, options)
    return timed(run.run, options) / run.amount


def timed(call: Callable[[], object], options: Options) -> float:
    """Return the median time of a call in seconds, after an untimed one."""
    timer = Timer("call()", globals={"call": call}, num_threads=options.threads)
    return timer.blocked_autorange(min_run_time=options.seconds).median


def flops(name: str, options: Options) -> float:
    """Return the operations of matrix products and convolutions that the recipe needs for a unit."""
    run = prepared(name, "recipe", replace(options, source_steps=1, vae_steps=1, steps=1))
    with FlopCounterMode(display=False) as counter:
        run.run()
    return counter.get_total_flops() / run.amount


def product_rate(options: Options, precision: str) -> float:
    """Return the operations per second of a square matrix product: what counts as the machine's peak."""
    torch.set_num_threads(options.threads)
    n, dtype = options.product, choose_precision(precision, options.where)
    a = torch.randn(n, n, device=options.where).to(dtype)
    return 2 * n**3 / timed(lambda: a @ a, options)


def in_turns(calls: Mapping[Hashable, Callable[[], float]], turns: int) -> dict[Hashable, list[float]]:
    """Call each function once a turn, in reverse order in every other turn; return their results.

    Changes in the machine's speed then affect all of them.
    """
    found: dict[Hashable, list[float]] = {name: [] for name in calls}
    for turn in range(turns):
        for name in list(calls) if turn % 2 == 0 else reversed(calls):
            found[name].append(calls[name]())
    return found


def forget_peak(device: torch.device) -> None:
    """Reset the peak that `peak` returns, if the system allows it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """Return the peak memory so far in MiB: of this process (Linux only), or of its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not getrusage: on Linux its maximum includes that of the parent process.
    status = Path("/proc/self/status")
    return (
        int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**10 if status.exists() else float("nan")
    )


def machine(options: Options) -> str:
    """Return one line that describes the machine and the software."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, text=True, capture_output=True, check=False).stdout.strip()
    return ", ".join(
        [
            *([torch.cuda.get_device_name()] if options.where.type == "cuda" else []),
            found[1] if found else platform.processor(),
            torch.backends.cpu.get_cpu_capability(),
            *(["bf16 matrix units"] if torch.cpu._is_amx_tile_supported() else []),
            f"{len(os.sched_getaffinity(0))} cores" if hasattr(os, "sched_getaffinity") else "",
            f"{options.threads} threads",
            f"torch {torch.__version__}",
            f"commit {commit or 'unknown'}",
        ]
    )
