"""Choice of the faster of two implementations of an operation, measured once on each machine.

As with `torch.backends.cudnn.benchmark`, both run when the operation is first needed. The choice is kept in
the cache folder: where both are level, a second measurement may choose otherwise, and the last digits of
results would change from run to run.
"""

import contextlib
import platform
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import torch

from dwp.files import cache_folder

DATABASE = "autotuning.sqlite"
TURNS = 5
"""Measurements of each implementation, in turns; the shortest counts, as other work lengthens the rest."""
SECONDS = 0.002
"""Duration of a measurement, at least."""
MOST_SECONDS = 0.5
"""Duration of all measurements after which no other turn begins."""


def apart(function: Callable[[], bool]) -> bool:
    """Return the result of a function in a thread of its own, which has none of the caller's modes.

    Such as inference mode, autocast, a default device, and hooks of saved tensors (`torch.utils.checkpoint`).
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def is_faster(operation: str, first: Callable[[], object], second: Callable[[], object]) -> bool:
    """Return whether `first` is faster than `second` on this machine, as measured now or earlier.

    Args:
        operation: what both compute, and whatever else their speeds depend on.
        first: one implementation.
        second: the other.
    """
    # Not every Python has SQLite, and not every disk can be written; then each process measures.
    with contextlib.suppress(ImportError, OSError):
        return _remembered(operation, lambda: _measure(first, second))
    return _measure(first, second)


def _remembered(operation: str, measure: Callable[[], bool]) -> bool:
    """Return the choice in the database, which of several processes the first has made."""
    import sqlite3

    key = _machine(), operation
    cache_folder().mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(cache_folder() / DATABASE, isolation_level=None)) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS choices "
                "(machine TEXT, operation TEXT, first INTEGER, PRIMARY KEY (machine, operation))"
            )
            choice = "SELECT first FROM choices WHERE machine = ? AND operation = ?"
            if not (known := database.execute(choice, key).fetchone()):
                database.execute("INSERT OR IGNORE INTO choices VALUES (?, ?, ?)", (*key, measure()))
                known = database.execute(choice, key).fetchone()
            return bool(known[0])
    except sqlite3.Error as error:
        raise OSError(f"{cache_folder() / DATABASE}: {error}") from error


def _measure(first: Callable[[], object], second: Callable[[], object]) -> bool:
    began, calls, shortest = perf_counter(), {}, {}
    for call in (first, second):
        call()  # warms up
        once = _seconds(call, 1)
        calls[call], shortest[call] = max(1, round(SECONDS / max(once, 1e-9))), once
    for _ in range(TURNS):
        if perf_counter() - began > MOST_SECONDS:
            break
        for call, count in calls.items():
            shortest[call] = min(shortest[call], _seconds(call, count))
    return shortest[first] < shortest[second]


def _seconds(call: Callable[[], object], count: int) -> float:
    """Return the seconds of one of `count` calls."""
    began = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - began) / count


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{processor()}, {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}"
