"""Measurement of workloads: in turns, each side in its own process."""

import contextlib
import ctypes
import dataclasses
import gc
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.material import Material, Options
from dwp.pipeline.environment import MEMORY

ROOT = Path(__file__).resolve().parent.parent
ANSWER = "answer:"
MiB = 2**20


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values."""
        return cls(statistics.median(values), min(values), max(values))


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the duration of a call in seconds, including pending work on the device."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turns(calls: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Time several workloads in turns, so that changes in the machine's speed affect all of them.

    Each runs once untimed before. The order is reversed in every other turn.

    Args:
        calls: each runs a workload and returns its time in seconds.
        repeats: number of turns.

    Returns:
        Seconds, one list of `repeats` for each call.
    """
    for call in calls:
        call()
    found: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats):
        order = range(len(calls)) if repeat % 2 == 0 else reversed(range(len(calls)))
        for index in order:
            found[index].append(calls[index]())
    return found


class Side:
    """One side of a workload in its own process, which runs it on request and is otherwise idle."""

    def __init__(self, workload: str, side: str, options: Options) -> None:
        arguments = json.dumps([workload, side, dataclasses.asdict(options)])
        environment = {name: value for name, value in os.environ.items() if name not in MEMORY}
        if side == "ours" and options.keep_memory:
            environment |= MEMORY
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.timing", arguments],
            env=environment | {"PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.amount = self._answer()[0]

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self) -> float:
        """Run the workload; return its time in seconds."""
        return self._ask("workload")[0]

    def memory(self) -> tuple[int, int]:
        """Return the peak memory so far, and that at the start (libraries, data, priors), in bytes.

        On CUDA: PyTorch's allocations on the device, and the part for data and weights.
        """
        peak, start = self._ask("memory")
        return int(peak), int(start)

    def _ask(self, question: str) -> list[float]:
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return [float(word) for word in line.removeprefix(ANSWER).split()]
        raise RuntimeError(
            f"the process of a workload ended with exit code {self._process.wait()}; see above"
        )


def _serve(workload: str, side: str, options: dict) -> None:
    from benchmarks.workloads import WORKLOADS

    options = Options.from_json(options)
    logging.getLogger("dwp").setLevel(logging.WARNING)
    material = Material(options)
    # Both sides have data and priors: they count as the start; the memory for making them is excluded.
    material.load()
    forget_peak(material.device)
    start = peak(material.device)
    call, amount = getattr(WORKLOADS[workload], side)(material)
    print(ANSWER, amount, flush=True)
    for question in sys.stdin:
        if question == "workload\n":
            print(ANSWER, seconds(call, material.device), flush=True)
        else:
            print(ANSWER, peak(material.device), start, flush=True)


def with_memory_kept(main: Callable[[], None]) -> None:
    """Call main in the environment of the workflow's jobs; restart the process if it is not set."""
    if MEMORY.items() <= os.environ.items():
        main()
    else:
        os.execve(sys.executable, sys.orig_argv, os.environ | MEMORY)


def forget_peak(device: torch.device) -> None:
    """Reset the peak that `peak` returns, if the system allows it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Return the peak memory so far in bytes: resident size of this process, or allocations on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum includes that of the parent process.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def machine(device: torch.device, threads: int) -> str:
    """Return one line that describes the machine and the software."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        name = found[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    units = [
        feature
        for feature, there in (
            ("AVX-512", torch.cpu._is_avx512_supported()),
            ("bf16 matrix units", torch.cpu._is_amx_tile_supported()),
        )
        if there
    ]
    where = f"{name}, {cores} cores, {threads} threads, {', '.join(units) or 'neither AVX-512 nor AMX'}"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}; {where}"
    git = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        text=True,
        capture_output=True,
        check=False,
    )
    commit = git.stdout.strip() or "unknown"
    return f"{where}; torch {torch.__version__}, Python {platform.python_version()}, commit {commit}"


if __name__ == "__main__":
    _serve(*json.loads(sys.argv[1]))
