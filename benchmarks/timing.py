"""How the works are measured: in turns, in one process; memory in a process of its own."""

import contextlib
import dataclasses
import gc
import json
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

ROOT = Path(__file__).resolve().parent.parent
MEMORY = "peak memory, bytes: "
MiB = 2**20


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, least and largest of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values."""
        return cls(statistics.median(values), min(values), max(values))


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes, until the device has done what it was told."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turns(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[list[float]]:
    """Time several calls by turns, so that a change of the machine's mood meets all alike.

    Each is called once before, untimed. The order turns round with every repeat.

    Returns:
        Seconds, one list of `repeats` for each call.
    """
    for call in calls:
        call()
    found: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats):
        order = range(len(calls)) if repeat % 2 == 0 else reversed(range(len(calls)))
        for index in order:
            found[index].append(seconds(calls[index], device))
    return found


def peak_memory(work: str, side: str, options: Options) -> tuple[int, int]:
    """Return bytes at the peak of a work in a process of its own, and how many of them its start took.

    On CUDA: of PyTorch's allocations on the device, and what data and weights take of them.
    """
    arguments = json.dumps([work, side, dataclasses.asdict(options)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.timing", arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    found = re.search(f"^{MEMORY}(\\d+) (\\d+)$", done.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(f"memory of {work}, {side}: {(done.stdout + done.stderr)[-2000:]}")
    return int(found[1]), int(found[2])


def _measure_memory(work: str, side: str, options: dict) -> None:
    from benchmarks.works import WORKS

    options = Options.from_json(options)
    material = Material(options)
    # Data and priors are on both sides: they count as the start, and what making them took does not.
    material.load()
    forget_peak(material.device)
    start = peak(material.device)
    call, _ = getattr(WORKS[work], side)(material)
    # Twice: the optimiser's moments exist from the first step on.
    call()
    call()
    print(f"{MEMORY}{peak(material.device)} {start}")


def forget_peak(device: torch.device) -> None:
    """Begin anew with the peak that `peak` returns; the resident size where that cannot be done."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Return the largest size so far in bytes: resident, of this process, or allocated on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum begins with that of the process that started this one.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def machine(device: torch.device, threads: int) -> str:
    """Return one line that says on what, and with what, was measured."""
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
    _measure_memory(*json.loads(sys.argv[1]))
