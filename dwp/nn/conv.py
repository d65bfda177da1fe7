"""Fast replacements of PyTorch's convolutions for small maps on a CPU, computed by matrix products.

Not all convolution libraries are tuned for maps of 5×5 or 10×10 pixels. Here such maps are stored in the
order [h, w, n, c] and kernels in the order [k, k, in, out]; shapes are the usual ones, only strides
differ. A layer is then one matrix product for each multiplication in the bilinear form of the
convolution from `dwp.nn.bilinear_algorithms`. Whether that is faster than PyTorch's convolution depends on
the processor, and is measured for each shape (`dwp.nn.autotuning`).

The networks and VAEs of this library use these layers, since their maps are small and of moderate
range; converted user models keep PyTorch's convolutions. PyTorch also computes everything that a form
does not speed up or support: maps that are large or not square, strides, dilation and groups, other
devices, dtypes and tensor subclasses, function transforms and tracing, gradients of gradients, and
results that are not finite.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.nn.autotuning import is_faster
from dwp.nn.bilinear_algorithms import cheapest
from dwp.nn.bilinear_conv import TOGETHER, convolve, is_plain, maps_of, pixels_first

# Largest size of a map; for larger ones the change of basis costs more than it saves.
LARGEST = 16
# Largest size of a map of one channel that is copied once per weight and convolved by a single product.
LARGEST_COPIED = 8

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

    Small maps on a CPU are convolved in the weight's precision, also under autocast.
    """
    if isinstance(padding, tuple) and padding[0] == padding[1] and groups == 1:
        x = _at_precision_of(weight, x)
        if (
            _is_small(x, weight, bias, stride, dilation)
            and weight.shape[2] <= x.shape[2] + 2 * padding[0]
            and _products_are_faster(x, weight, padding[0])
        ):
            y = _convolve(x, weight, bias, padding[0])
            if y is not None:
                return y
    return plain_conv2d(x, weight, bias, stride, padding, dilation, groups)


def plain_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *arguments: Any) -> Tensor:
    """Return `functional.conv2d` for maps of any size; no form is more precise than the direct sum."""
    # Pooling after it is fast in this memory order, which weights of one channel do not imply.
    return functional.conv2d(_channels_last(x), weight.contiguous(), bias, *arguments)


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: _Pair = (1, 1)) -> Tensor:
    """Return `functional.conv_transpose2d` of x [n, i, h, w] and weight [i, o, k, k], [n, o, h', w'].

    Small maps on a CPU are convolved in the weight's precision, also under autocast.
    """
    x = _at_precision_of(weight, x)
    small = _is_small(x, weight.transpose(0, 1), bias, stride)
    if small and _products_are_faster(x, weight, transposed=True):
        y = _convolve_transposed(x, weight, bias)
        if y is not None:
            return y
    return functional.conv_transpose2d(x, weight.contiguous(), bias, stride)


def _is_small(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Pair, dilation: _Pair = (1, 1)
) -> bool:
    return (
        _implementation != "pytorch"
        and is_plain(x)
        and type(weight) in (Tensor, nn.Parameter)
        and x.dtype == weight.dtype == (weight if bias is None else bias).dtype
        and weight.dtype in (torch.float32, torch.float64)
        and x.shape[2] == x.shape[3] <= LARGEST
        and x.shape[1] == weight.shape[1]
        and weight.shape[2] == weight.shape[3]
        and x.numel() > 0 < weight.numel()
        and stride == dilation == (1, 1)
    )


def _products_are_faster(x: Tensor, weight: Tensor, padding: int = 0, *, transposed: bool = False) -> bool:
    if _implementation == "products":
        return True
    maps, inputs, size, _ = x.shape
    outputs, kernel = weight.shape[1 if transposed else 0], weight.shape[2]
    # Measured for a power of two; more maps are computed by parts.
    together = min(TOGETHER, 1 << (maps - 1).bit_length())
    return _measured(together, inputs, size, outputs, kernel, padding, x.dtype, transposed)


@functools.cache
def _measured(
    maps: int,
    inputs: int,
    size: int,
    outputs: int,
    kernel: int,
    padding: int,
    dtype: torch.dtype,
    transposed: bool,
) -> bool:
    """Return whether matrix products are faster than PyTorch's convolution, gradients included."""

    def step(convolution: Callable[..., Tensor | None], x: Tensor, *options: Any) -> Callable[[], object]:
        weight = torch.ones(kernel, kernel, inputs, outputs, dtype=dtype, device="cpu")
        weight = maps_of(weight) if transposed else weight.permute(3, 2, 0, 1)
        parts = [x.requires_grad_(), weight.requires_grad_(), x.new_zeros(outputs).requires_grad_()]

        def run() -> object:
            y = convolution(*parts, *options)
            return y if y is None else torch.autograd.grad(y, parts, torch.ones_like(y))

        return run

    # In any mode that the caller is in.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        x = torch.ones(size, size, maps, inputs, dtype=dtype, device="cpu")
        channels_last = x.permute(2, 0, 1, 3).contiguous().permute(0, 3, 1, 2)
        if transposed:
            ours = step(_convolve_transposed, maps_of(x))
            pytorchs = step(functional.conv_transpose2d, channels_last)
        else:
            ours = step(_convolve, maps_of(x), padding)
            pytorchs = step(plain_conv2d, channels_last, 1, padding)
        if ours() is None:
            return False
        name = "transposed convolution" if transposed else "convolution"
        shape = f"{maps} maps {inputs}×{size}×{size} to {outputs} channels, kernel {kernel}"
        return is_faster(f"{name}, {shape}, padding {padding}, {dtype}", ours, pytorchs)


def _at_precision_of(weight: Tensor, x: Tensor) -> Tensor:
    """Return x in the weight's dtype where autocast gave it another and its maps are small."""
    if x.dtype == weight.dtype or not torch.is_autocast_enabled("cpu"):
        return x
    return x.to(weight.dtype) if is_plain(x) and x.shape[2] <= LARGEST else x


def _channels_last(x: Tensor) -> Tensor:
    # Tensors that are batched by a function transform have no such memory order.
    batched = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    return x if x.ndim != 4 or batched else x.contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor | None:
    """Convolve x [n, i, h, h] with weight [o, i, k, k], [n, o, h', h']; None leaves it to PyTorch."""
    maps, inputs, size, _ = x.shape
    outputs, _, kernel, _ = weight.shape
    kernels = weight.permute(2, 3, 1, 0)
    if kernel == 1 and not padding:
        return _product(pixels_first(x), kernels[0, 0], bias)
    if kernel == size and not padding:
        each = pixels_first(x).permute(2, 0, 1, 3).reshape(1, 1, maps, -1)
        return _product(each, kernels.reshape(-1, outputs), bias)
    if inputs == 1:
        if size > LARGEST_COPIED:
            return None
        pixels = pixels_first(x).reshape(size**2, maps)
        each = torch.cat([pixels, pixels.new_zeros(1, maps)]).index_select(0, _met(size, kernel, padding))
        side = size + 2 * padding - kernel + 1
        each = each.view(side, side, kernel**2, maps).transpose(2, 3)
        return _product(each, kernels.reshape(-1, outputs), bias)
    form = cheapest(size, kernel, padding, inputs, outputs, maps, weight.dtype)
    return convolve(x, weight, bias, form, padding) if form else None


def _convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """As `_convolve`, for a transposed convolution with weight [i, o, k, k] and no padding."""
    maps, inputs, size, _ = x.shape
    _, outputs, kernel, _ = weight.shape
    if size == 1:
        return _product(pixels_first(x), pixels_first(weight), bias)
    form = cheapest(size + kernel - 1, kernel, 0, inputs, outputs, maps, weight.dtype, transposed=True)
    return convolve(x, weight, bias, form, transposed=True) if form else None


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
