"""The precision of matrix products, and densities in float32 whatever it is."""

import torch
from torch import Tensor

from dwp.errors import InputError


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
    """Return the context in which matrix products run in that precision; see `choose_precision`.

    Those of small maps on a CPU (`dwp.nn.conv`) stay in float32.
    """
    dtype = choose_precision(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor of half precision in float32, any other as it is: densities are sums of many terms."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
