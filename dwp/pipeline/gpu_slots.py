"""Assignment of jobs to GPUs: each job takes the GPU with the fewest jobs on this machine."""

import fcntl
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dwp.training import devices

_held: list[int] = []  # file descriptors of this process's slots, open until it ends


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to work on, see `dwp.training.devices.choose_device`.

    If several GPUs are visible, this is the one with the fewest jobs on this machine; it becomes
    PyTorch's current device.

    Raises:
        InputError: the requested device is not available.
    """
    device = devices.choose_device(name)
    if device.type == "cuda" and (count := torch.cuda.device_count()) > 1:
        names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
        chosen = take_slot(names, Path(tempfile.gettempdir(), f"dwp-gpus-{os.getuid()}"))
        torch.cuda.set_device(chosen)
        return torch.device(device.type, chosen)
    return device


def take_slot(names: Sequence[str], folder: Path) -> int:
    """Take a slot on the GPU with the fewest slots taken, until this process ends; return the GPU's index.

    Args:
        names: names of the GPUs; processes may see different ones.
        folder: folder of the lock files, one for each slot; the kernel frees the locks of a dead process.
    """
    folder.mkdir(exist_ok=True)
    for slot in itertools.count():
        for index, name in enumerate(names):
            descriptor = os.open(folder / f"{name}-{slot}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                _held.append(descriptor)
                return index
    raise AssertionError("there are infinitely many slots")
