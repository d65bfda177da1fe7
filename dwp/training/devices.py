"""Where to compute."""

import torch

from dwp.errors import InputError, unknown


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to work on: 'cpu', 'cuda', 'mps', or 'auto' for the best there is.

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
        raise unknown("device", name, ["auto", *answers])
    if not answers[name]:
        raise InputError(f"device: {name!r} was asked for, but none answers here; use 'auto' or 'cpu'")
    return torch.device(name)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the machine or of the device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no type of its own for this on the CPU.
    messages = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
