"""Fast replacements of PyTorch's convolutions for small maps on a CPU, computed by matrix products.

Not all convolution libraries are tuned for maps of 5×5 or 10×10 pixels. Here such maps are stored in the
order [h, w, n, c] and kernels in the order [k, k, in, out]; shapes are the usual ones, only strides
differ. A layer is then one matrix product for each multiplication in the bilinear form of the
convolution from `dwp.nn.bilinear_algorithms`. Whether that is faster than PyTorch's convolution depends on
the processor, and is measured for each shape (`dwp.nn.product_conv`).

The networks and VAEs of this library use these layers, since their maps are small and of moderate
range; converted user models keep PyTorch's convolutions. PyTorch also computes everything that a form
does not speed up or support: maps that are large or not square, strides, dilation and groups, other
devices, dtypes and tensor subclasses, function transforms and tracing, gradients of gradients, and
results that are not finite.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.nn import product_conv
from dwp.nn.bilinear_conv import is_plain, maps_of, pixels_first

# Largest size of a map; for larger ones the change of basis costs more than it saves.
LARGEST = 16

Implementation = Literal["fastest", "products", "pytorch"]
_Pair = tuple[int, ...]  # of two, as PyTorch annotates it
_implementation: Implementation = "fastest"


@contextlib.contextmanager
def implementation(name: Implementation) -> Iterator[None]:
    """Choose the implementation of convolutions of small maps while the context is active.

    Args:
        name: fastest, products (wherever a form exists) or pytorch.
    """
    global _implementation
    before, _implementation = _implementation, name
    try:
        yield
    finally:
        _implementation = before


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, computed by `conv2d`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        kernels = self.weight.data.permute(2, 3, 1, 0)
        self.weight.data = kernels.contiguous().permute(3, 2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        if self.padding_mode != "zeros":
            return super().forward(x)
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, computed by `conv_transpose2d` where nothing is padded."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weight.data = maps_of(pixels_first(self.weight.data).contiguous())

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        unpadded = self.padding == self.output_padding == (0, 0) and output_size is None
        if unpadded and self.dilation == (1, 1) and self.groups == 1:
            return conv_transpose2d(x, self.weight, self.bias, self.stride)
        return super().forward(x, output_size)


class MaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` with stride k, in the memory order that is fastest in PyTorch.

    Without gradients it does not compute the indices of the maxima.
    """

    kernel_size: int

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, c, h, w] to [n, c, h', w']."""
        if x.requires_grad or not is_plain(x):
            return super().forward(_channels_last(x))
        for axis in (2, 3):
            windows = x.narrow(axis, 0, x.shape[axis] // self.kernel_size * self.kernel_size)
            windows = windows.unflatten(axis, (-1, self.kernel_size))
            x = functools.reduce(torch.maximum, windows.unbind(axis + 1))
        return x


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = (1, 1),
    padding: _Pair | str = (0, 0),
    dilation: _Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Return `functional.conv2d` of x [n, i, h, w] and weight [o, i, k, k], [n, o, h', w'].

    Under autocast on a CPU, small maps are in its precision or in the weight's, whichever is faster.
    """
    x = _as_double(x, weight)
    even = isinstance(padding, tuple) and padding[0] == padding[1]
    if even and stride == dilation == (1, 1) and groups == 1:
        y = _by_products(x, weight, bias, int(padding[0]))
        if y is not None:
            return y
    return plain_conv2d(x, weight, bias, stride, padding, dilation, groups)


def plain_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *arguments: Any) -> Tensor:
    """Return `functional.conv2d` for maps of any size; no form is more precise than the direct sum."""
    # Pooling after it is fast in this memory order, which weights of one channel do not imply.
    return functional.conv2d(_channels_last(x), weight.contiguous(), bias, *arguments)


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: _Pair = (1, 1)) -> Tensor:
    """Return `functional.conv_transpose2d` of x [n, i, h, w] and weight [i, o, k, k], [n, o, h', w'].

    Under autocast on a CPU, small maps are in its precision or in the weight's, whichever is faster.
    """
    x = _as_double(x, weight)
    if stride == (1, 1):
        y = _by_products(x, weight, bias, transposed=True)
        if y is not None:
            return y
    return functional.conv_transpose2d(x, weight.contiguous(), bias, stride)


def _by_products(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0, *, transposed: bool = False
) -> Tensor | None:
    """Return a convolution with small maps by matrix products; None where PyTorch computes it.

    The products are in the weight's precision, also under autocast.
    """
    if _implementation == "pytorch" or not is_plain(x) or x.shape[2] > LARGEST:
        return None
    if x.dtype != weight.dtype and torch.is_autocast_enabled("cpu"):
        x = x.to(weight.dtype)
    small = (
        type(weight) in (Tensor, nn.Parameter)
        and x.dtype == weight.dtype == (weight if bias is None else bias).dtype
        and weight.dtype in (torch.float32, torch.float64)
        and x.shape[2] == x.shape[3]
        and x.shape[1] == weight.shape[0 if transposed else 1]
        and weight.shape[2] == weight.shape[3]
        and (transposed or weight.shape[2] <= x.shape[2] + 2 * padding)
        and x.numel() > 0 < weight.numel()
    )
    if small and (
        _implementation == "products" or product_conv.are_faster(x, weight, padding, transposed=transposed)
    ):
        return product_conv.convolve(x, weight, bias, padding, transposed=transposed)
    return None


def _as_double(x: Tensor, weight: Tensor) -> Tensor:
    """Return x in float64 if autocast gave it another precision, but leaves a float64 weight as it is."""
    lowered = weight.dtype == torch.float64 != x.dtype and torch.is_autocast_enabled("cpu")
    return x.double() if lowered else x


def _channels_last(x: Tensor) -> Tensor:
    # Tensors that are batched by a function transform have no such memory order.
    batched = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    return x if x.ndim != 4 or batched else x.contiguous(memory_format=torch.channels_last)
