"""Where to compute, and in what precision."""

import fcntl
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dwp.errors import InputError

_places: list[int] = []  # on GPUs, taken by this process, which never gives back: file descriptors


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to work on: 'cpu', 'cuda', 'mps', or 'auto' for the best there is.

    Of several visible GPUs it is the one that the fewest processes have chosen this way
    and still live, so that jobs on one machine spread.

    Raises:
        InputError: the device asked for does not answer.
    """
    answers = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in answers.items() if there)
    if name not in answers:
        raise InputError(f"device: {name!r} is not known; use one of auto, {', '.join(answers)}")
    if not answers[name]:
        raise InputError(f"device: {name!r} was asked for, but none answers here; use 'auto' or 'cpu'")
    if name == "cuda" and (count := torch.cuda.device_count()) > 1:
        names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
        chosen = take_place(names, Path(tempfile.gettempdir(), f"dwp-gpus-{os.getuid()}"))
        torch.cuda.set_device(chosen)
        return torch.device(name, chosen)
    return torch.device(name)


def take_place(names: Sequence[str], folder: Path) -> int:
    """Return the index of the name that the fewest processes hold, and hold it until this process ends.

    Args:
        names: of what is shared; processes may see different ones.
        folder: where the locks are, one file for each place; the kernel frees those of a process that died.
    """
    folder.mkdir(exist_ok=True)
    for place in itertools.count():
        for index, name in enumerate(names):
            descriptor = os.open(folder / f"{name}-{place}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                _places.append(descriptor)
                return index


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the machine or of the device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no type of its own for this on the CPU.
    messages = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
