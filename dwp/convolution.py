"""Convolutions of small maps as matrix products: PyTorch's results in a part of its time, on a CPU.

Convolution libraries are not tuned for maps of 5×5 or 10×10 pixels. Here such maps are held
pixel by pixel, as [h, w, n, c], and kernels as [k, k, in, out], both behind tensors of the usual
shape with other strides, so that nobody else needs to know. A layer is then one product of
matrices for each product of numbers in the form of the convolution that `dwp.bilinear` finds.

Left to PyTorch are larger maps and those that are not square, strides, dilation and groups,
and devices other than the CPU, whose libraries choose among such forms themselves.
"""

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dwp.bilinear import Bilinear, cheapest

# Larger maps would spend more on the change of basis than products save.
LARGEST = 16
# Maps of one channel up to this are copied once for each weight: a single product then does it.
LARGEST_COPIED = 8
# Maps that are in another basis at a time: so few that the processor's cache holds them, or most of it.
TOGETHER = 128

_Pair = tuple[int, int]
_pytorch_only = False


@contextlib.contextmanager
def pytorch_only() -> Iterator[None]:
    """Within, every convolution is PyTorch's own, and its operations are those of the plain sum."""
    global _pytorch_only
    before, _pytorch_only = _pytorch_only, True
    try:
        yield
    finally:
        _pytorch_only = before


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` (with zeros as padding), computed by `conv2d`."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        kernels = self.weight.data.permute(2, 3, 1, 0)
        self.weight.data = kernels.contiguous().permute(3, 2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` without padding, computed by `conv_transpose2d`."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.weight.data = _maps(_pixels(self.weight.data).contiguous())

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        return conv_transpose2d(x, self.weight, self.bias, self.stride)


class MaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` of windows side by side, in the order of memory in which PyTorch is fast at it.

    Where nobody asks for gradients it does not look for the places of the maxima.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, c, h, w] to [n, c, h', w']."""
        if x.requires_grad or x.device.type != "cpu":
            return super().forward(x.to(memory_format=torch.channels_last))
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
    """Return `functional.conv2d` of x [n, i, h, w] and weight [o, i, k, k], [n, o, h', w']."""
    equal = not isinstance(padding, str) and padding[0] == padding[1]
    if equal and _small(x, weight, stride, dilation, groups):
        y = _conv2d(x, weight.permute(2, 3, 1, 0), bias, padding[0])
        if y is not None:
            return y
    # The pooling that follows likes this order, which weights of a single channel cannot ask for.
    x = x.to(memory_format=torch.channels_last)
    return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: _Pair = (1, 1)) -> Tensor:
    """Return `functional.conv_transpose2d` of x [n, i, h, w] and weight [i, o, k, k], [n, o, h', w']."""
    if _small(x, weight, stride):
        maps, _, size, _ = x.shape
        kernels = weight.permute(2, 3, 0, 1)
        kernel, _, inputs, outputs = kernels.shape
        if size == 1:
            return _maps(_with(_pixels(x) @ kernels, bias))
        total = size + kernel - 1
        if form := cheapest(total, kernel, 0, inputs, outputs, maps, weight.dtype, transposed=True):
            return _InForm.apply(x, kernels, bias, form)
    return functional.conv_transpose2d(x, weight, bias, stride)


def _small(x: Tensor, weight: Tensor, stride: _Pair, dilation: _Pair = (1, 1), groups: int = 1) -> bool:
    return (
        not _pytorch_only
        and len(x) > 0
        and x.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and x.shape[2] == x.shape[3] <= LARGEST
        and weight.shape[2] == weight.shape[3]
        and stride == dilation == (1, 1)
        and groups == 1
    )


def _pixels(x: Tensor) -> Tensor:
    """Return a view [h, w, n, c] of maps [n, c, h, w]."""
    return x.permute(2, 3, 0, 1)


def _maps(pixels: Tensor) -> Tensor:
    """Return a view [n, c, h, w] of [h, w, n, c]."""
    return pixels.permute(2, 3, 0, 1)


def _conv2d(x: Tensor, kernels: Tensor, bias: Tensor | None, padding: int) -> Tensor | None:
    """Convolve x [n, i, h, w] with kernels [k, k, i, o], [n, o, h', w']; None if PyTorch should."""
    maps, inputs, size, _ = x.shape
    kernel, outputs = len(kernels), kernels.shape[3]
    if kernel == 1 and not padding:
        return _maps(_with(_pixels(x) @ kernels[0, 0], bias))
    if kernel == size and not padding:
        each = _pixels(x).permute(2, 0, 1, 3).reshape(1, 1, maps, -1)
        return _maps(_with(each @ kernels.reshape(-1, outputs), bias))
    if inputs == 1:
        if size > LARGEST_COPIED:
            return None
        copies = _copies(size, kernel, padding, kernels.dtype) @ _pixels(x).reshape(size**2, maps)
        each = copies.view(-1, kernel**2, maps).transpose(1, 2)
        side = size + 2 * padding - kernel + 1
        return _maps(_with(each @ kernels.reshape(-1, outputs), bias).unflatten(0, (side, side)))
    form = cheapest(size, kernel, padding, inputs, outputs, maps, kernels.dtype)
    return form and _InForm.apply(x, kernels, bias, form)


def _with(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y.add_(bias)


@functools.lru_cache
def _copies(size: int, kernel: int, padding: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix [o²·k², h²] that makes of a map what each kernel's weight meets for each result."""
    pixels = torch.eye(size**2, dtype=dtype).view(-1, 1, size, size)
    return functional.unfold(pixels, kernel, padding=padding).permute(2, 1, 0).flatten(0, 1).contiguous()


class _InForm(torch.autograd.Function):
    """Convolve x [n, i, h, w] with kernels [k, k, i, o] in a form of their convolution, [n, o, h', w'].

    In float32 under autocast, too: what a change of basis loses in bfloat16 was not measured.
    It has no second derivatives; whoever needs them finds them within `pytorch_only`.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(context: object, x: Tensor, kernels: Tensor, bias: Tensor | None, form: Bilinear) -> Tensor:
        x, w = _flat(x), kernels.flatten(0, 1)
        context.form = form
        context.save_for_backward(x, w)
        changed = _mix(form.of_kernel, w)
        y = _new_maps(x, len(form.to_result), w.shape[2])
        result = _flat(y)
        for some in _slices(x.shape[1]):
            _mix_into(result[:, some], form.to_result, torch.bmm(_mix(form.of_map, x[:, some]), changed))
        if bias is not None:
            result += bias
        return y

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(context: object, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, w), form = context.saved_tensors, context.form
        for_x, for_kernels, for_bias, _ = context.needs_input_grad
        dy = _flat(dy)
        dx = dw = None
        if for_x:
            dx = _new_maps(x, len(x), x.shape[2])
            flat = _flat(dx)
            # Anew, since a product with the transposes of the first ones takes longer than both.
            changed = _mix(form.of_kernel, w.transpose(1, 2))
        if for_kernels:
            dw = x.new_zeros(len(form.of_map), *w.shape[1:])
        for some in _slices(x.shape[1]):
            d = _mix(form.to_result.T, dy[:, some])
            if for_x:
                _mix_into(flat[:, some], form.of_map.T, torch.bmm(d, changed))
            if for_kernels:
                dw.baddbmm_(_mix(form.of_map, x[:, some]).transpose(1, 2), d)
        if for_kernels:
            dw = _mix(form.of_kernel.T, dw)
            dw = dw.unflatten(0, (math.isqrt(len(dw)),) * 2)
        return dx, dw, dy.sum((0, 1)) if for_bias else None, None


def _flat(x: Tensor) -> Tensor:
    """Return maps [n, c, h, w] as [h·w, n, c], a view where they are held pixel by pixel."""
    return _pixels(x).flatten(0, 1).contiguous()


def _new_maps(like: Tensor, pixels: int, channels: int) -> Tensor:
    """Return maps [n, channels, h, w] to be filled, of so many pixels, held pixel by pixel."""
    maps, side = like.shape[1], math.isqrt(pixels)
    strides = (channels, 1, side * maps * channels, maps * channels)
    return like.new_empty_strided((maps, channels, side, side), strides)


def _slices(maps: int) -> list[slice]:
    return [slice(start, start + TOGETHER) for start in range(0, maps, TOGETHER)]


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Return the products of a matrix [r, s] with x [s, a, b] over its first axis, [r, a, b]."""
    return (matrix @ x.flatten(1)).view(-1, *x.shape[1:])


def _mix_into(y: Tensor, matrix: Tensor, x: Tensor) -> None:
    """Put `_mix`(matrix, x) into y, slices of whose last two axes are contiguous."""
    torch.mm(matrix, x.flatten(1), out=y.flatten(1))
