"""Choice of the device, and detection of out-of-memory errors."""

import torch

from dwp.errors import InputError, unknown


def choose_device(name: str = "auto") -> torch.device:
    """Return a device: 'cpu', 'cuda', 'mps', or 'auto' for the best one available.

    Raises:
        InputError: the device is unknown or not available.
    """
    answers = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in answers.items() if there)
    if name not in answers:
        raise unknown("device", name, ["auto", *answers])
    if not answers[name]:
        raise InputError(f"device: {name!r} was asked for, but none answers here; use 'auto' or 'cpu'")
    return torch.device(name)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the machine or the device ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU, PyTorch has no exception type for this.
    messages = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
