"""Posterior distributions over n kernels, for `Prior.kl` and `Prior.cross_entropy`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from dwp.errors import InputError
from dwp.nn.precision import at_least_float32


def noise_like(x: Tensor) -> Tensor:
    """Return standard normal noise of the shape, dtype, device and memory layout of x."""
    if torch.compiler.is_compiling():
        # The order of strides may be unknown, if shapes are dynamic.
        return torch.randn_like(x)
    # Drawn in memory order: in another order PyTorch's CPU generator takes eight times as long.
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    noise = torch.randn([x.shape[axis] for axis in order], dtype=x.dtype, device=x.device)
    return noise.permute([order.index(axis) for axis in range(x.ndim)])


def draw_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal noise like x, from a generator on the CPU; None uses that of the device."""
    if generator is None:
        return torch.randn_like(x)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return log N(x; mean, variance) of each element, in nats."""
    return -0.5 * ((x - mean).square() / variance + variance.log() + math.log(2 * math.pi))


@dataclass(frozen=True)
class GaussianPosterior:
    """A factorised Gaussian over n kernels; both fields are [n, 1, k, k], in float32 or wider."""

    mean: Tensor
    log_variance: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "log_variance"):
            object.__setattr__(self, name, at_least_float32(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, chosen: Tensor) -> "GaussianPosterior":
        return GaussianPosterior(self.mean[chosen], self.log_variance[chosen])

    def rsample(self) -> Tensor:
        """Draw one sample of each kernel, [n, 1, k, k], differentiable in both fields."""
        return self.mean + (0.5 * self.log_variance).exp() * noise_like(self.mean)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, summed over all weights."""
        return 0.5 * self.log_variance.sum() + 0.5 * math.log(2 * math.pi * math.e) * self.mean.numel()

    def log_alpha(self) -> Tensor:
        """Return log(variance / mean²) of each weight, [n, 1, k, k]."""
        # The floor keeps value and gradient finite where a mean is zero.
        return self.log_variance - (self.mean.square() + 1e-16).log()


def as_posterior(q: Distribution, size: int) -> GaussianPosterior:
    """Return a Normal over kernels [n, 1, k, k] or weights [o, i, k, k] as a posterior over n or o·i kernels.

    The result is differentiable in location and scale.

    Args:
        q: a `torch.distributions.Normal`, also inside `Independent`; or one of Pyro's.
        size: k.

    Raises:
        InputError: it is another distribution, or over another shape.
    """
    base = q
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise InputError(f"prior: the posterior is {q}; expected a Normal or an Independent Normal")
    mean, deviation = as_kernels(base.loc, size), as_kernels(at_least_float32(base.scale), size)
    return GaussianPosterior(mean, 2 * deviation.log())


def as_kernels(w: Tensor, size: int) -> Tensor:
    """Return weights [o, i, k, k] as kernels [o·i, 1, k, k], and kernels [n, 1, k, k] unchanged.

    Raises:
        InputError: w has another shape.
    """
    if w.ndim != 4 or w.shape[2:] != (size, size):
        raise InputError(
            f"prior: the weights have shape {list(w.shape)}; "
            f"expected [out, in, {size}, {size}], or kernels [n, 1, {size}, {size}]"
        )
    return w if w.shape[1] == 1 else w.flatten(0, 1).unsqueeze(1)


def as_mask(observed: Tensor, w: Tensor) -> Tensor:
    """Return a mask of the weights of a kernel, or of each kernel, as [1, k²] or [n, k²].

    Args:
        observed: booleans, [k, k] or of the shape of w.
        w: kernels [n, 1, k, k], or weights [o, i, k, k] with o·i = n.

    Raises:
        InputError: the mask is not boolean, or has another shape.
    """
    if observed.dtype != torch.bool or observed.shape not in (w.shape, w.shape[-2:]):
        raise InputError(
            f"prior: the mask of observed weights is {observed.dtype} of shape {list(observed.shape)}; "
            f"expected torch.bool of shape {list(w.shape[-2:])} or {list(w.shape)}"
        )
    return observed.reshape(-1, w.shape[-2:].numel()).to(w.device)


@dataclass(frozen=True)
class PointMass:
    """A point mass on one value of each kernel, [n, 1, k, k]."""

    mean: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, chosen: Tensor) -> "PointMass":
        return PointMass(self.mean[chosen])

    def rsample(self) -> Tensor:
        """Return the kernels themselves."""
        return self.mean
