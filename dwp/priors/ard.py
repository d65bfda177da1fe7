"""Automatic relevance determination: a Gaussian prior with a separate variance for each weight."""

import torch
from torch import Tensor

from dwp.priors.base import KLEstimator, Prior, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import ARDSettings


@register
class ARD(Prior):
    """N(0, s²) for each weight, with the s² that minimises the KL (Kharitonov et al. 2018, arXiv 1811.00596).

    The minimum is at s² = mean² + variance of the posterior. Since s² depends on the posterior, the prior
    has no density and cannot be sampled from.
    """

    settings_class = ARDSettings

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return Σ 0.5·log(1 + mean²/variance), in nats, summed over weights; `estimator` is ignored."""
        # The clamp affects only variances that float32 cannot hold; without it the product would be 0·∞.
        ratio = q.mean * (-0.5 * q.log_variance).clamp(max=60).exp()
        # √(1 + r²) - 1, without overflow for a large r and without cancellation for a small one.
        excess = ratio * (ratio / (1 + torch.hypot(ratio, torch.ones_like(ratio))))
        return excess.log1p().sum()
