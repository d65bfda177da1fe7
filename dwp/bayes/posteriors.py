"""Approximate posteriors over the weights of a layer, learned by Bayesian layers.

Each form of posterior is a module that is initialised from a weight, samples weights and computes
the KL divergence from the prior; `build` finds forms by name.
"""

import functools
import itertools
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes.settings import find
from dwp.errors import InputError
from dwp.priors.base import KLEstimator, Prior, PriorWithCodes
from dwp.priors.distributions import GaussianPosterior, PointMass, log_normal, noise_like

ALL = KLEstimator()


class Posterior(nn.Module):
    """A distribution over a weight [o, i, k, k], with the prior over its kernels.

    The prior is not a submodule, so that it is not trained, cast or saved with the posterior; it
    only moves with it to other devices.

    Args:
        weight: initial weight, [o, i, k, k]; of any shape if the prior is over 1×1 kernels, since every
            weight then counts as one kernel.
        prior: prior over k×k kernels.
    """

    prior: Prior

    def __init__(self, weight: Tensor, prior: Prior) -> None:
        super().__init__()
        self.shape = weight.shape
        # Not by assignment, which would register it as a submodule.
        self.__dict__["prior"] = prior

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        _beside(self.prior, next(self.parameters()))
        return self

    def as_kernels(self, weight: Tensor) -> Tensor:
        """Return a weight [o, i, k, k] as kernels of the prior, [o·i, 1, k, k]."""
        size = self.prior.kernel_size
        # Contiguous, so that the same noise goes to the same weights for any memory format.
        return weight.reshape(-1, 1, size, size).contiguous()

    def weight(self, *, sampled: bool) -> Tensor:
        """Return one sample of the weight, or its centre, [o, i, k, k]."""
        raise NotImplementedError

    def kl(self, estimator: KLEstimator = ALL) -> Tensor:
        """Return the KL divergence from the prior, in nats, summed over all kernels; see `Prior.kl`."""
        raise NotImplementedError


class Factorised(Posterior):
    """A Gaussian over every weight; subclasses have a `mean` and define `moments`."""

    mean: nn.Parameter

    def moments(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, shaped like the weight, in `dtype` or that of the parameters."""
        raise NotImplementedError

    def weight(self, *, sampled: bool) -> Tensor:
        """Return one sample of the weight, or its mean, [o, i, k, k]."""
        mean, log_variance = self.moments()
        return mean + (0.5 * log_variance).exp() * noise_like(mean) if sampled else mean

    def kernels(self) -> GaussianPosterior:
        """Return the posterior over the M kernels of the weight, [M, 1, k, k], in the dtype of the prior."""
        dtype = _dtype(self.prior, self.mean.dtype)
        return GaussianPosterior(*(self.as_kernels(moment) for moment in self.moments(dtype)))

    def kl(self, estimator: KLEstimator = ALL) -> Tensor:
        """Return KL(q || prior) in nats, summed over all kernels; see `Prior.kl`."""
        return self.prior.kl(self.kernels(), estimator)

    def log_ratio(self, weight: Tensor) -> Tensor:
        """Return log q(w) - log p(w) of a weight [o, i, k, k], in nats, summed over all kernels.

        Raises:
            InputError: the prior has no density.
        """
        q = self.kernels()
        w = self.as_kernels(weight.to(q.mean.dtype))
        return log_normal(w, q.mean, q.log_variance.exp()).sum() - self.prior.log_prob(w).sum()


class Additive(Factorised):
    """Independent means and log-variances: w = mean + exp(log_variance / 2)·ε.

    Args:
        weight: initial weight, see `Posterior`.
        prior: prior over k×k kernels.
        largest_variance: upper bound of the variances, which the parameter `log_variance` approaches
            smoothly, so that its gradient is never cut off; None for no bound.
    """

    initial_log_variance = -10.0

    def __init__(self, weight: Tensor, prior: Prior, largest_variance: float | None = None) -> None:
        super().__init__(weight, prior)
        self.mean = nn.Parameter(_copy(weight))
        initial, self.limit = self.initial_log_variance, None
        if largest_variance is not None:
            if not largest_variance > 0:
                raise InputError(f"largest_variance: it is {largest_variance}; expected a number above 0")
            self.limit = math.log(largest_variance)
            below = max(self.limit - initial, 1.0)
            # The inverse of `moments` for a log-variance of `limit - below`.
            initial = self.limit - below - math.log1p(-math.exp(-below))
        self.log_variance = nn.Parameter(torch.full_like(self.mean, initial))

    def moments(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, shaped like the weight; see `Factorised.moments`."""
        log_variance = self.log_variance.to(dtype or self.log_variance.dtype)
        if self.limit is not None:
            log_variance = self.limit - functional.softplus(self.limit - log_variance)
        return self.mean.to(dtype or self.mean.dtype), log_variance


class TruncatedAlpha(Factorised):
    """Multiplicative noise of bounded strength: variance = α·mean², α = sigmoid(a) <= 1.

    It is the posterior for the log-uniform prior of Kingma et al. (2015).
    """

    initial_a = -2.0

    def __init__(self, weight: Tensor, prior: Prior) -> None:
        super().__init__(weight, prior)
        self.mean = nn.Parameter(_copy(weight))
        self.a = nn.Parameter(torch.full_like(self.mean, self.initial_a))

    def moments(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, shaped like the weight; see `Factorised.moments`."""
        dtype = dtype or self.mean.dtype
        # Half precision cannot represent the floor.
        wide = torch.promote_types(dtype, torch.float32)
        mean = self.mean.to(wide)
        log_variance = functional.logsigmoid(self.a.to(wide)) + (mean.square() + 1e-16).log()
        return mean.to(dtype), log_variance.to(dtype)


class Point(Posterior):
    """A point mass on each kernel; with -log p(w) in place of the KL, training finds the MAP estimate."""

    def __init__(self, weight: Tensor, prior: Prior) -> None:
        super().__init__(weight, prior)
        self.value = nn.Parameter(_copy(weight))

    def weight(self, *, sampled: bool) -> Tensor:
        """Return the weight, [o, i, k, k]; there is nothing to sample."""
        return self.value

    def kl(self, estimator: KLEstimator = ALL) -> Tensor:
        """Return -log p(w), or an upper bound, in nats, summed over all kernels; see `Prior.log_prob`."""
        value = self.value.to(_dtype(self.prior, self.value.dtype))
        return self.prior.cross_entropy(PointMass(self.as_kernels(value)), estimator)


class Latent(Posterior):
    """A Gaussian over the latent code of each kernel; the kernel is the decoder's mean (DWR).

    It is initialised with the codes of the weight's kernels under the reverse model r(z|w).
    """

    initial_log_variance = -10.0

    def __init__(self, weight: Tensor, prior: Prior) -> None:
        super().__init__(weight, prior)
        with torch.no_grad():
            code = self._coded.encode(self.as_kernels(weight.detach().to(_dtype(prior, weight.dtype))))[0]
        self.mean = nn.Parameter(_copy(code.to(weight.dtype)))
        self.log_variance = nn.Parameter(torch.full_like(self.mean, self.initial_log_variance))

    @property
    def _coded(self) -> PriorWithCodes:
        return cast("PriorWithCodes", self.prior)

    def codes(self) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the codes, each [o·i, latent], in the dtype of the prior."""
        dtype = _dtype(self.prior, self.mean.dtype)
        return self.mean.to(dtype), self.log_variance.to(dtype)

    def weight(self, *, sampled: bool) -> Tensor:
        """Return the decoded sample of the codes, or their decoded means, [o, i, k, k]."""
        code, log_variance = self.codes()
        if sampled:
            code = code + (0.5 * log_variance).exp() * torch.randn_like(code)
        return self._coded.decode(code)[0].view(self.shape).to(self.mean.dtype)

    def kl(self, estimator: KLEstimator = ALL) -> Tensor:
        """Return KL(q(z) || p(z)) in nats, summed over all kernels."""
        mean, log_variance = self.codes()
        return self._coded.code_kl(mean, log_variance.exp()).sum()


_CLASSES: dict[str, Callable[[Tensor, Prior], Posterior]] = {
    "additive": Additive,
    "truncated_alpha": TruncatedAlpha,
    "point": Point,
    "latent": Latent,
}


def build(form: str, weight: Tensor, prior: Prior, largest_variance: float | None = None) -> Posterior:
    """Return a posterior of a named form, initialised from a weight [o, i, k, k].

    Raises:
        InputError: there is no such form, it is incompatible with the prior, or it has no variances of its
            own to bound.
    """
    needs = find(form)
    try:
        needs.check(prior.settings_class)
    except InputError as error:
        raise InputError(f"posterior {form}: prior {error}") from None
    if largest_variance is None:
        return _CLASSES[form](weight, prior)
    if form != "additive":
        raise InputError(f"posterior {form}: largest_variance is for posterior additive only; leave it out")
    return Additive(weight, prior, largest_variance)


def own(prior: Prior, weight: Tensor) -> Prior:
    """Return a frozen copy of a prior for a model, on the weight's device, in float32 or wider."""
    copy = deepcopy(prior).eval().requires_grad_(False)
    return _beside(copy.to(_dtype(copy, torch.float32)), weight)


def _beside(prior: Prior, tensor: Tensor) -> Prior:
    # On the meta device the prior would lose its parameters.
    return prior if tensor.is_meta else prior.to(tensor.device)


def _dtype(prior: Prior, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype of a prior, or `otherwise` if it has no tensors; float32 at least."""
    tensors = itertools.chain(prior.parameters(), prior.buffers())
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {otherwise}
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def _copy(weight: Tensor) -> Tensor:
    # Contiguous, as safetensors requires.
    return weight.detach().clone(memory_format=torch.contiguous_format)
