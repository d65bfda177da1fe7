"""Precision of matrix products; densities are in float32 or wider."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dwp.errors import unknown
from dwp.nn.autotuning import is_faster, training_step


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products.

    Args:
        name: 'float32', 'bfloat16', or 'auto': bfloat16 on GPUs that multiply it natively (since Ampere) and
            on CPUs that convolve faster in it, as measured once (`autotuning`), and float32 elsewhere.
            Parameters, their updates and all densities stay in float32 in any case.
        device: where the products are computed.

    Raises:
        InputError: the name is unknown.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise unknown("precision", name, ("auto", "float32", "bfloat16"))
    if name == "auto":
        faster = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "cpu": lambda: _bfloat16_is_faster(torch.get_num_threads()),
        }.get(device.type, lambda: False)
        return torch.bfloat16 if faster() else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


@functools.cache
def _bfloat16_is_faster(threads: int) -> bool:
    """Return whether this CPU convolves faster in bfloat16 than in float32, gradients included."""

    def step(dtype: torch.dtype) -> Callable[[], object]:
        x = torch.ones(16, 32, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        return training_step(functional.conv2d, [x, torch.ones(32, 32, 3, 3, dtype=dtype)])

    operation = "convolution, 16 maps 32×32×32 to 32 channels, kernel 3, bfloat16 against float32"
    return is_faster(operation, lambda: (step(torch.bfloat16), step(torch.float32)))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which matrix products have the given precision; see `choose_precision`.

    Convolutions of small maps on a CPU (`dwp.nn.conv`) stay in float32 where that is faster.
    """
    dtype = choose_precision(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, since densities sum many terms; any other unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
