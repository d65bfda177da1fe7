"""Which of several GPUs a job works on: the one that the fewest jobs of this machine use."""

import fcntl
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dwp.training import devices

_held: list[int] = []  # file descriptors of the slots of this process, which keeps them until it ends


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to work on, see `dwp.training.devices.choose_device`.

    Of several visible GPUs it is the one that the fewest living processes have chosen this
    way, so that jobs on one machine spread; it becomes PyTorch's current one.

    Raises:
        InputError: the device asked for does not answer.
    """
    device = devices.choose_device(name)
    if device.type == "cuda" and (count := torch.cuda.device_count()) > 1:
        names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
        chosen = take_slot(names, Path(tempfile.gettempdir(), f"dwp-gpus-{os.getuid()}"))
        torch.cuda.set_device(chosen)
        return torch.device(device.type, chosen)
    return device


def take_slot(names: Sequence[str], folder: Path) -> int:
    """Return the index of the GPU with the fewest slots taken, and hold a slot on it until this process ends.

    Args:
        names: of the GPUs; processes may see different ones.
        folder: where the locks are, one file for each slot; the kernel frees those of a process that died.
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
