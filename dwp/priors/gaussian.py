"""A Gaussian over kernels with a full covariance."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from dwp.nn.precision import at_least_float32
from dwp.priors._elliptical import Elliptical, floor, plus_sphere
from dwp.priors.base import KLEstimator, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import GaussianSettings, PriorSettings


@register
class Gaussian(Elliptical):
    """N(μ, Σ) over the k² weights of a kernel, as in Trockman et al. 2023.

    Σ is the covariance of the training kernels, shrunk towards a sphere of their mean variance like
    the estimate of Ledoit & Wolf (2004). Cross-validation chooses the strength, since their
    formula shrinks too strongly for heavy tails.

    Args:
        kernel_size: k.
    """

    settings_class: ClassVar[type[PriorSettings]] = GaussianSettings

    def maximise(self, w: Tensor, strength: float) -> None:
        """Set mean and covariance; see `Elliptical.maximise`."""
        x = w.flatten(1)
        centred = x - x.mean(0)
        scatter = centred.T @ centred / len(x)
        variance = scatter.diagonal().mean().item()
        share = strength / (len(x) + strength)
        covariance = plus_sphere((1 - share) * scatter, share * variance + floor(variance))
        self.mean.copy_(x.mean(0))
        self.factor.copy_(torch.linalg.cholesky(covariance))

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        distribution = MultivariateNormal(self.mean, scale_tril=self.factor, validate_args=False)
        return distribution.log_prob(at_least_float32(w).flatten(1))

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        location, factor = self.mean.cpu(), self.factor.cpu()
        noise = torch.randn(n, len(location), generator=generator, dtype=location.dtype)
        return (location + noise @ factor.T).view(n, 1, self.kernel_size, self.kernel_size)

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return the KL in closed form, in nats, summed over kernels; `estimator` is ignored."""
        trace = (q.log_variance.flatten(1).exp() * self.precisions()).sum()
        distance = self.squared_distance(q.mean).sum()
        log_determinant = len(q) * self.log_determinant()
        return 0.5 * (trace + distance + log_determinant - q.log_variance.sum() - q.mean.numel())
