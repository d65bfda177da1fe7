"""Convolutions of small maps by matrix products, and whether they are faster than PyTorch's."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dwp.nn import bilinear_conv
from dwp.nn.autotuning import apart, is_faster
from dwp.nn.bilinear_algorithms import cheapest
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


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0, *, transposed: bool = False
) -> Tensor | None:
    """Return the convolution of x [n, i, h, h] with weight [o, i, k, k], [n, o, h', h'].

    If transposed, weight is [i, o, k, k], and nothing is padded. Return None where no products could be
    faster than PyTorch's convolution, or where the result is not finite (see `bilinear_conv.convolve`).
    """
    maps, inputs, size, outputs, kernel, *_ = shape_of(x, weight, padding, transposed)
    kernels = pixels_first(weight) if transposed else weight.permute(2, 3, 1, 0)
    if transposed and size == 1:
        return _product(pixels_first(x), kernels, bias)
    if not transposed and not padding and kernel == 1:
        return _product(pixels_first(x), kernels[0, 0], bias)
    if not transposed and not padding and kernel == size:
        each = pixels_first(x).permute(2, 0, 1, 3).reshape(1, 1, maps, -1)
        return _product(each, kernels.reshape(-1, outputs), bias)
    if not transposed and inputs == 1:
        if size > LARGEST_COPIED:
            return None
        pixels = pixels_first(x).reshape(size**2, maps)
        each = torch.cat([pixels, pixels.new_zeros(1, maps)]).index_select(0, _met(size, kernel, padding))
        side = size + 2 * padding - kernel + 1
        each = each.view(side, side, kernel**2, maps).transpose(2, 3)
        return _product(each, kernels.reshape(-1, outputs), bias)
    of_form = size + kernel - 1 if transposed else size
    form = cheapest(of_form, kernel, padding, inputs, outputs, maps, weight.dtype, transposed=transposed)
    return bilinear_conv.convolve(x, weight, bias, form, padding, transposed=transposed) if form else None


def are_faster(x: Tensor, weight: Tensor, padding: int, *, transposed: bool) -> bool:
    """Return whether matrix products, in the weight's precision, are faster than PyTorch's convolution.

    PyTorch's is in the precision of autocast, if that is enabled. Both are measured with their gradients,
    once on each machine (`autotuning`), for a power of two of maps; more than `TOGETHER` are computed in
    parts.
    """
    shape = shape_of(x, weight, padding, transposed)
    maps = min(TOGETHER, 1 << (shape.maps - 1).bit_length())
    lowered = torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32
    autocast = torch.get_autocast_dtype("cpu") if lowered else None
    return _measured(shape._replace(maps=maps), weight.dtype, autocast)


@functools.cache
def _measured(shape: Shape, dtype: torch.dtype, autocast: torch.dtype | None) -> bool:
    maps, inputs, size, outputs, kernel, padding, transposed = shape

    def step(convolution: Callable[..., Tensor | None], x: Tensor, weight: Tensor) -> Callable[[], object]:
        parts = [x.requires_grad_(), weight.requires_grad_(), x.new_zeros(outputs).requires_grad_()]

        def run() -> object:
            y = convolution(*parts)
            return y if y is None else torch.autograd.grad(y, parts, torch.ones_like(y))

        return run

    def in_pytorch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            convolution = functional.conv_transpose2d if transposed else functional.conv2d
            return convolution(x, weight.contiguous(), bias, padding=padding)

    def measure() -> bool:
        x = torch.ones(size, size, maps, inputs, dtype=dtype)
        weight = torch.ones(kernel, kernel, inputs, outputs, dtype=dtype)
        weight = maps_of(weight) if transposed else weight.permute(3, 2, 0, 1)
        channels_last = x.permute(2, 0, 1, 3).contiguous().permute(0, 3, 1, 2)
        ours = functools.partial(convolve, padding=padding, transposed=transposed)
        products, pytorchs = step(ours, maps_of(x), weight.clone()), step(in_pytorch, channels_last, weight)
        if products() is None:
            return False
        name = "transposed convolution" if transposed else "convolution"
        operation = f"{name}, {maps} maps {inputs}×{size}×{size} to {outputs} channels, kernel {kernel}"
        operation += f", padding {padding}, {dtype} against {autocast or dtype}"
        return is_faster(operation, products, pytorchs)

    return apart(measure)


def _product(pixels: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """Return maps [n, o, h, w] from pixels [h, w, n, m] and kernels [..., m, o]: the plain sum."""
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _product(pixels, kernels, bias)
    y = pixels @ kernels
    return maps_of(y if bias is None else y.add_(bias))


@functools.lru_cache
def _met(size: int, kernel: int, padding: int) -> Tensor:
    """Return the index of the pixel under each weight for each output, [o²·k²]; h² stands for the padding."""
    # Tensors created in inference mode cannot be used in training.
    with torch.inference_mode(False):
        inside = torch.arange(size**2, device="cpu").view(size, size)
        pixels = functional.pad(inside, [padding] * 4, value=size**2)
        return pixels.unfold(0, kernel, 1).unfold(1, kernel, 1).flatten()
