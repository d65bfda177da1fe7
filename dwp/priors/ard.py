"""Automatic relevance determination: a Gaussian prior whose variance each weight chooses for itself."""

import torch
from torch import Tensor

from dwp.priors.base import KLEstimator, Prior, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import ARDSettings


@register
class ARD(Prior):
    """N(0, s²) for each weight, s² that which makes the KL least (Kharitonov et al. 2018, arXiv 1811.00596).

    The least is at s² = mean² + variance. It depends on the posterior, so that there is no
    density to evaluate and none to sample from.
    """

    settings_class = ARDSettings

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return Σ 0.5·log(1 + mean²/variance), in nats, summed over weights; `estimator` is not needed."""
        # Beyond the clamp are variances that float32 cannot hold; without it 0·∞ would come.
        ratio = q.mean * (-0.5 * q.log_variance).clamp(max=60).exp()
        # √(1 + r²) - 1, without the overflow of r² and without the 1 that a small r² would drown in.
        excess = ratio * (ratio / (1 + torch.hypot(ratio, torch.ones_like(ratio))))
        return excess.log1p().sum()
