"""Hierarchical ARD: a Gaussian prior whose precisions have a Gamma hyper-prior, with a learned rate."""

import math

import torch
from torch import Tensor

from dwp.priors.base import KLEstimator, Prior, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import HierarchicalARDSettings

# Steps of Newton's method for the rate; more change the KL by less than float64 resolves.
STEPS = 20


@register
class HierarchicalARD(Prior):
    """N(0, 1/τ) for each weight, τ ~ Gamma(shape, rate), the rate shared by all weights of a layer.

    It extends the ARD of Kharitonov et al. (2018, arXiv 1811.00596). The precisions τ have their optimal
    posteriors, Gamma(shape + 1/2, rate + (mean² + variance) / 2), and the rate minimises the KL, so that the
    hyper-prior adapts to the scale of the layer. A small shape is close to `ARD`, a large one to a single
    variance for the layer. Since the rate depends on the posterior, the prior has no density.

    Args:
        kernel_size: k.
        shape: shape of the hyper-prior.
    """

    settings_class = HierarchicalARDSettings

    def __init__(self, kernel_size: int, shape: float = HierarchicalARDSettings.shape) -> None:
        super().__init__(kernel_size, shape=shape)
        self.shape = shape

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return KL(q(w) q(τ) || p(w|τ) p(τ)), in nats, summed over weights; `estimator` is ignored."""
        a = self.shape
        half = _half_second_moment(q)
        log_rate = rate(half.detach(), a)
        constant = math.lgamma(a) - math.lgamma(a + 0.5) - 0.5
        excess = (a + 0.5) * torch.logaddexp(log_rate, half) - a * log_rate - 0.5 * q.log_variance
        return (excess + constant).sum()


def _half_second_moment(q: GaussianPosterior) -> Tensor:
    """Return log((mean² + variance) / 2) of each weight."""
    # The floor keeps the gradient finite where a mean is zero.
    return torch.logaddexp((q.mean.square() + 1e-30).log(), q.log_variance) - math.log(2)


def rate(half: Tensor, shape: float) -> Tensor:
    """Return the log of the rate that minimises the KL, a scalar.

    The mean of sigmoid(log rate - half) over the weights is then shape / (shape + 1/2). It is found by
    Newton's method, with bisection where a step leaves the bracket.

    Args:
        half: log((mean² + variance) / 2) of each weight.
        shape: shape of the hyper-prior.
    """
    target = shape / (shape + 0.5)
    logit = math.log(2 * shape)
    low, high = half.min() + logit, half.max() + logit
    value = half.mean() + logit
    for _ in range(STEPS):
        sigmoid = torch.sigmoid(value - half)
        error = sigmoid.mean() - target
        low, high = torch.where(error < 0, value, low), torch.where(error < 0, high, value)
        newton = value - error / (sigmoid * (1 - sigmoid)).mean().clamp_min(1e-12)
        value = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return value
