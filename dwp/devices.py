"""Where to compute, and in what precision."""

import torch
from torch import Tensor

from dwp.errors import InputError


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
        return torch.device(next(kind for kind, there in answers.items() if there))
    if name not in answers:
        raise InputError(f"device: {name!r} is not known; use one of auto, {', '.join(answers)}")
    if not answers[name]:
        raise InputError(f"device: {name!r} was asked for, but none answers here; use 'auto' or 'cpu'")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: 'float32', 'bfloat16', or 'auto'.

    'auto' is bfloat16 where the hardware multiplies it natively (GPUs since
    Ampere, CPUs with matrix units) and float32 elsewhere. Parameters, their
    updates and all densities stay in float32 either way.
    """
    if name == "auto":
        native = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "cpu": torch.cpu._is_amx_tile_supported,
        }.get(device.type, lambda: False)
        return torch.bfloat16 if native() else torch.float32
    if name not in ("float32", "bfloat16"):
        raise InputError(f"precision: {name!r} is not known; use one of auto, float32, bfloat16")
    return getattr(torch, name)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products run in that precision; see `choose_precision`."""
    dtype = choose_precision(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the machine or of the device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no type of its own for this on the CPU.
    messages = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)


def widened(x: Tensor) -> Tensor:
    """Return a tensor of half precision in float32, any other as it is: densities are sums of many terms."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
