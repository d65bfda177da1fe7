"""Precision of matrix products; densities are in float32 or wider."""

import torch
from torch import Tensor

from dwp.errors import unknown


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products.

    Args:
        name: 'float32', 'bfloat16', or 'auto': bfloat16 where the hardware multiplies it natively
            (GPUs since Ampere, CPUs with matrix units) and float32 elsewhere. Parameters, their
            updates and all densities stay in float32 in any case.
        device: where the products are computed.

    Raises:
        InputError: the name is unknown.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise unknown("precision", name, ("auto", "float32", "bfloat16"))
    if name == "auto":
        native = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "cpu": torch.cpu._is_amx_tile_supported,
        }.get(device.type, lambda: False)
        return torch.bfloat16 if native() else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which matrix products have the given precision; see `choose_precision`.

    Convolutions of small maps on a CPU (`dwp.nn.conv`) stay in float32.
    """
    dtype = choose_precision(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, since densities sum many terms; any other unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
