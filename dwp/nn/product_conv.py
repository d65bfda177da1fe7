"""Convolutions of small maps by matrix products, and whether they are faster than PyTorch's."""

import functools
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dwp.nn import autotuning, bilinear_conv
from dwp.nn.bilinear_algorithms import Matrices, cheapest
from dwp.nn.bilinear_conv import TOGETHER, maps_of, pixels_first

# Largest size of a map of one channel that is copied once per weight and convolved by a single product.
LARGEST_COPIED = 8


class Shape(NamedTuple):
    """Shape of a convolution of maps [n, i, h, h] with k×k kernels."""

    maps: int
    inputs: int
    size: int
    outputs: int
    kernel: int
    padding: int
    transposed: bool


def shape_of(x: Tensor, weight: Tensor, padding: int, transposed: bool) -> Shape:
    """Return the shape of the convolution of x [n, i, h, h] with weight [o, i, k, k], or [i, o, k, k]."""
    maps, inputs, size, _ = x.shape
    outputs, kernel = weight.shape[1 if transposed else 0], weight.shape[2]
    return Shape(maps, inputs, size, outputs, kernel, padding, transposed)


def form_of(shape: Shape, dtype: torch.dtype) -> Matrices | Literal["sum"] | None:
    """Return the bilinear form of a convolution, 'sum' where one product is the direct sum, or None."""
    maps, inputs, size, outputs, kernel, padding, transposed = shape
    if transposed and size == 1:
        return "sum"
    if not transposed and not padding and kernel in (1, size):
        return "sum"
    if not transposed and inputs == 1:
        return "sum" if size <= LARGEST_COPIED else None
    result = size + kernel - 1 if transposed else size
    return cheapest(result, kernel, padding, inputs, outputs, maps, dtype, transposed=transposed)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0, *, transposed: bool = False
) -> Tensor | None:
    """Return the convolution of x [n, i, h, h] with weight [o, i, k, k], [n, o, h', h'].

    If transposed, weight is [i, o, k, k], and nothing is padded. Return None where no products could be
    faster than PyTorch's convolution, or where the result is not finite (see `bilinear_conv.convolve`).
    """
    shape = shape_of(x, weight, padding, transposed)
    form = form_of(shape, weight.dtype)
    if form is None:
        return None
    if form != "sum":
        return bilinear_conv.convolve(x, weight, bias, form, padding, transposed=transposed)
    if transposed:
        return _product(pixels_first(x), pixels_first(weight), bias)
    kernels = weight.permute(2, 3, 1, 0)
    if shape.kernel == 1 and not padding:
        return _product(pixels_first(x), kernels[0, 0], bias)
    if shape.kernel == shape.size and not padding:
        pixels = pixels_first(x).permute(2, 0, 1, 3).reshape(1, 1, shape.maps, -1)
    else:
        pixels = _copied(pixels_first(x).reshape(-1, shape.maps), shape)
    return _product(pixels, kernels.reshape(-1, shape.outputs), bias)


def are_faster(x: Tensor, weight: Tensor, padding: int, *, transposed: bool) -> bool:
    """Return whether matrix products, in the weight's precision, are faster than PyTorch's convolution.

    PyTorch's is in the precision of autocast, if that is enabled. Both are measured with their gradients,
    once on each machine (`autotuning`), for a power of two of maps; more than `TOGETHER` are computed in
    parts.
    """
    shape = shape_of(x, weight, padding, transposed)
    shape = shape._replace(maps=min(TOGETHER, 1 << (shape.maps - 1).bit_length()))
    lowered = torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32
    autocast = torch.get_autocast_dtype("cpu") if lowered else None
    return _measured(shape, weight.dtype, autocast, torch.get_num_threads())


@functools.cache
def _measured(shape: Shape, dtype: torch.dtype, autocast: torch.dtype | None, threads: int) -> bool:
    maps, inputs, size, outputs, kernel, padding, transposed = shape
    if form_of(shape, dtype) is None:
        return False

    def pytorchs(*parts: Tensor) -> Tensor:
        x, weight, bias = (part.to(autocast or dtype) for part in parts)
        convolution = functional.conv_transpose2d if transposed else functional.conv2d
        return convolution(x, weight.contiguous(), bias, padding=padding)

    def prepare() -> autotuning.Calls:
        x = torch.ones(size, size, maps, inputs, dtype=dtype)
        weight = torch.ones(kernel, kernel, inputs, outputs, dtype=dtype)
        weight = maps_of(weight) if transposed else weight.permute(3, 2, 0, 1)
        channels_last = x.permute(2, 0, 1, 3).contiguous().permute(0, 3, 1, 2)
        bias = torch.zeros(outputs, dtype=dtype)
        ours = functools.partial(convolve, padding=padding, transposed=transposed)
        return (
            autotuning.training_step(ours, [maps_of(x), weight, bias]),
            autotuning.training_step(pytorchs, [channels_last, weight, bias]),
        )

    name = "transposed convolution" if transposed else "convolution"
    name = f"{name}, {maps} maps {inputs}×{size}×{size} to {outputs} channels, kernel {kernel}"
    return autotuning.is_faster(f"{name}, padding {padding}, {dtype} against {autocast or dtype}", prepare)


def _product(pixels: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """Return maps [n, o, h, w] from pixels [h, w, n, m] and kernels [..., m, o]: the plain sum."""
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _product(pixels, kernels, bias)
    y = pixels @ kernels
    return maps_of(y if bias is None else y.add_(bias))


def _copied(pixels: Tensor, shape: Shape) -> Tensor:
    """Return the pixels [h², n] of maps of one channel under the kernel at each output, [o, o, n, k²]."""
    each = torch.cat([pixels, pixels.new_zeros(1, shape.maps)])
    each = each.index_select(0, _met(shape.size, shape.kernel, shape.padding))
    side = shape.size + 2 * shape.padding - shape.kernel + 1
    return each.view(side, side, shape.kernel**2, shape.maps).transpose(2, 3)


@functools.lru_cache
def _met(size: int, kernel: int, padding: int) -> Tensor:
    """Return the index of the pixel under each weight for each output, [o²·k²]; h² stands for the padding."""
    # Tensors created in inference mode cannot be used in training.
    with torch.inference_mode(False):
        inside = torch.arange(size**2, device="cpu").view(size, size)
        pixels = functional.pad(inside, [padding] * 4, value=size**2)
        return pixels.unfold(0, kernel, 1).unfold(1, kernel, 1).flatten()
