"""Choice of the faster of two implementations of an operation, measured once on each machine.

As with `torch.backends.cudnn.benchmark`, both run when the operation is first needed. The choice is kept in a
file of its own in the cache folder: where both are level, a second measurement may choose otherwise, and
results would change from run to run.
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from dwp.files import cache_folder

logger = logging.getLogger(__name__)

FOLDER = "autotuning"
TURNS = 5
"""Measurements of each implementation, in turns; the shortest counts, as other work lengthens the rest."""
SECONDS = 0.002
"""Duration of a measurement, at least."""
MOST_SECONDS = 0.5
"""Duration of all measurements after which no other turn begins."""

Calls = tuple[Callable[[], object], Callable[[], object]]


def is_faster(operation: str, prepare: Callable[[], Calls]) -> bool:
    """Return whether the first of two implementations is faster on this machine, as measured now or earlier.

    Args:
        operation: what both compute, and whatever else their speeds depend on.
        prepare: returns a call of either. It runs in a thread of its own, which has none of the caller's
            modes, such as inference mode, autocast, and hooks of saved tensors.
    """
    description = f"{_machine()}, {torch.get_num_threads()} threads: {operation}"
    file = _file(description)
    if file and (known := _read(file)) is not None:
        return known
    try:
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(_measure_apart, prepare).result()
    except RuntimeError as error:  # no thread can be started, such as while the interpreter ends
        logger.debug("%s: not measured: %s", operation, error)
        return False
    return _keep(file, first, description) if file else first


def training_step(function: Callable[..., Tensor | None], inputs: Sequence[Tensor]) -> Callable[[], object]:
    """Return a call of a function of tensors and of its gradients."""
    parts = [part.detach().requires_grad_() for part in inputs]

    def run() -> object:
        y = function(*parts)
        assert y is not None
        return torch.autograd.grad(y, parts, torch.ones_like(y))

    return run


def _measure_apart(prepare: Callable[[], Calls]) -> bool:
    # All threads share autocast's cache of cast weights; a thread's outermost autocast clears it at its end.
    torch.autocast_increment_nesting()
    try:
        return _measure(*prepare())
    finally:
        torch.autocast_decrement_nesting()


def _measure(first: Callable[[], object], second: Callable[[], object]) -> bool:
    began, calls, shortest = perf_counter(), {}, {first: math.inf, second: math.inf}
    for call in shortest:
        with contextlib.suppress(RuntimeError):  # such as a kernel that this build of PyTorch lacks
            call()  # warms up
            shortest[call] = _seconds(call, 1)
            calls[call] = max(1, round(SECONDS / max(shortest[call], 1e-9)))
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


def _file(description: str) -> Path | None:
    """Return the file of a choice; None where there is no folder for it."""
    try:
        return cache_folder() / FOLDER / hashlib.sha256(description.encode()).hexdigest()[:32]
    except RuntimeError:  # no home folder
        return None


def _read(file: Path) -> bool | None:
    """Return the choice in a file; None if there is none that can be read."""
    try:
        return file.read_text(encoding="utf-8").startswith("1")
    except OSError:
        return None


def _keep(file: Path, first: bool, description: str) -> bool:
    """Write a choice, unless another process was earlier; return the one that is kept."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent) as temporary:
            temporary.write(f"{int(first)} {description}\n")
            temporary.flush()
            with contextlib.suppress(FileExistsError):
                os.link(temporary.name, file)
    except OSError as error:
        _warn(f"{file.parent}: {error.strerror or error}")
    kept = _read(file)
    return first if kept is None else kept


@functools.cache
def _warn(message: str) -> None:
    logger.warning("%s; each process measures which convolutions are faster, and results may differ", message)


@functools.cache
def processor() -> str:
    """Return the name of the processor."""
    found = re.search(r"model name\s*: (.*)", _cpuinfo())
    return found[1] if found else platform.processor() or platform.machine()


@functools.cache
def _machine() -> str:
    # Processors of different generations can have one name.
    features = re.search(r"(?:flags|Features)\s*: (.*)", _cpuinfo())
    digest = hashlib.sha256(features[1].encode()).hexdigest()[:8] if features else ""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{processor()} {digest}, {capability}, torch {torch.__version__}"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not on Linux
        return ""
