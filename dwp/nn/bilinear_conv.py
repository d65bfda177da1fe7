"""Convolutions by a bilinear form (see `bilinear_algorithms`) as matrix products, with their gradients."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dwp.nn.bilinear_algorithms import Matrices

# Maps transformed at a time, to fit in the processor's cache.
TOGETHER = 128


def _dispatch_keys(x: Tensor) -> int:
    return torch._C._dispatch_keys(x).raw_repr()


with torch.inference_mode():
    _in_inference = torch.empty(0, device="cpu")

# Dispatch keys of an ordinary tensor on the CPU, which is neither batched nor traced.
ORDINARY = {_dispatch_keys(torch.empty(0, device="cpu")), _dispatch_keys(_in_inference)}


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    form: Matrices,
    padding: int = 0,
    *,
    transposed: bool = False,
) -> Tensor | None:
    """Return the convolution of x [n, i, h, h] with weight [o, i, k, k] by a form, [n, o, h', h'].

    If transposed, weight is [i, o, k, k] and the form is that of the transposed convolution. Return
    None if the result is not finite: a form mixes the pixels of a map, so one infinite pixel would
    spread over the whole map.
    """
    if not pixels_first(x).is_contiguous():
        # Outside the autograd function, so that its backward pass uses the reordered tensor as well.
        x = maps_of(pixels_first(x).contiguous())
    y = _InForm.apply(x, weight, bias, form, padding, transposed)
    return y if _is_finite(y) else None


class _InForm(torch.autograd.Function):
    """Convolve x [n, i, h, h] with weight [o, i, k, k] by a form, [n, o, h', h'].

    It computes in float32 under autocast as well. PyTorch computes the gradients if they are to be
    differentiated again or the incoming gradient is not finite.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: Matrices,
        padding: int,
        transposed: bool,
    ) -> Tensor:
        context.form, context.padding, context.transposed = form, padding, transposed
        context.save_for_backward(x, weight)
        x, w = _flat(x), _kernels(weight, transposed)
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
    def backward(context: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        for_x, for_weight, for_bias, *_ = context.needs_input_grad
        if not torch.is_grad_enabled() and is_plain(dy):
            db = dy.sum((0, 2, 3))
            if _is_finite(db):
                dx, dw = _InForm._gradients(context, _flat(dy), for_x, for_weight)
                return dx, dw, db if for_bias else None, None, None, None
        x, weight = context.saved_tensors
        padding, wanted = [context.padding] * 2, [for_x, for_weight, for_bias]
        options = [[1, 1], padding, [1, 1], context.transposed, [0, 0], 1, wanted]
        found = torch.ops.aten.convolution_backward(
            dy, x, weight.contiguous(), [dy.shape[1]] if for_bias else None, *options
        )
        return *found, None, None, None

    @staticmethod
    def _gradients(
        context: Any, dy: Tensor, for_x: bool, for_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        form, transposed = context.form, context.transposed
        x, weight = context.saved_tensors
        x, w = _flat(x), _kernels(weight, transposed)
        dx = dw = None
        if for_x:
            dx = _new_maps(x, len(x), x.shape[2])
            flat = _flat(dx)
            # Computed again: multiplying by a transpose of the first would take longer than both products.
            changed = _mix(form.of_kernel, w.transpose(1, 2))
        products = x.new_zeros(len(form.of_map), *w.shape[1:]) if for_weight else None
        for some in _slices(x.shape[1]):
            d = _mix(form.to_result.T, dy[:, some])
            if for_x:
                _mix_into(flat[:, some], form.of_map.T, torch.bmm(d, changed))
            if products is not None:
                products.baddbmm_(_mix(form.of_map, x[:, some]).transpose(1, 2), d)
        if products is not None:
            dw = _mix(form.of_kernel.T, products).unflatten(0, weight.shape[2:])
            dw = dw.permute(2, 3, 0, 1) if transposed else dw.permute(3, 2, 0, 1)
        return dx, dw


def _flat(x: Tensor) -> Tensor:
    """Return maps [n, c, h, w] as [h·w, n, c], a view where memory is in the order h, w, n, c."""
    return pixels_first(x).flatten(0, 1).contiguous()


def _kernels(weight: Tensor, transposed: bool) -> Tensor:
    """Return a weight [o, i, k, k], or [i, o, k, k] if transposed, as [k·k, i, o], a view where possible."""
    return weight.permute((2, 3, 0, 1) if transposed else (2, 3, 1, 0)).flatten(0, 1)


def _new_maps(like: Tensor, pixels: int, channels: int) -> Tensor:
    """Return uninitialised square maps [n, channels, h, w] of h·w pixels, in the memory order h, w, n, c."""
    maps, side = like.shape[1], math.isqrt(pixels)
    strides = (channels, 1, side * maps * channels, maps * channels)
    return like.new_empty_strided((maps, channels, side, side), strides)


def _slices(maps: int) -> list[slice]:
    return [slice(start, start + TOGETHER) for start in range(0, maps, TOGETHER)]


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Return the products of a matrix [r, s] with x [s, a, b] over its first axis, [r, a, b]."""
    return (matrix @ x.flatten(1)).view(-1, *x.shape[1:])


def _mix_into(y: Tensor, matrix: Tensor, x: Tensor) -> None:
    """Write `_mix`(matrix, x) into y, whose last two axes are contiguous."""
    torch.mm(matrix, x.flatten(1), out=y.flatten(1))


def pixels_first(x: Tensor) -> Tensor:
    """Return a view [h, w, n, c] of maps [n, c, h, w]."""
    return x.permute(2, 3, 0, 1)


def maps_of(pixels: Tensor) -> Tensor:
    """Return a view [n, c, h, w] of [h, w, n, c]."""
    return pixels.permute(2, 3, 0, 1)


def _is_finite(y: Tensor) -> bool:
    # A single pass; if only the sum overflows, PyTorch computes the convolution instead.
    return math.isfinite(y.detach().sum())


def is_plain(x: Tensor) -> bool:
    """Return whether x is a tensor [n, c, h, w] on the CPU, without transforms or tracing except autograd."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and x.ndim == 4
        and _dispatch_keys(x) in ORDINARY
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]  # documented, but not listed
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
