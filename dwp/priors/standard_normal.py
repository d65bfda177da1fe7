"""The standard normal prior, N(0, scale²) for each weight."""

import math

import torch
from torch import Tensor

from dwp.nn.precision import at_least_float32
from dwp.priors.base import KLEstimator, Prior, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import StandardNormalSettings


@register
class StandardNormal(Prior):
    """Independent N(0, scale²) for each weight; the KL of a Gaussian is in closed form.

    Args:
        kernel_size: k.
        scale: the standard deviation.
    """

    settings_class = StandardNormalSettings

    def __init__(self, kernel_size: int, scale: float = StandardNormalSettings.scale) -> None:
        super().__init__(kernel_size, scale=scale)
        self.scale = scale

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        w = at_least_float32(w)
        constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        return -(0.5 * (w / self.scale).square() + constant).flatten(1).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]."""
        return self.scale * torch.randn(n, 1, self.kernel_size, self.kernel_size, generator=generator)

    def elliptical(self, like: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return zeros, a multiple of the identity and infinity; see `Prior.elliptical`."""
        identity = torch.eye(self.kernel_size**2, device=like.device, dtype=at_least_float32(like).dtype)
        return torch.zeros_like(identity[0]), self.scale * identity, math.inf

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return the KL in closed form, in nats, summed over kernels; `estimator` is ignored."""
        ratio = (q.log_variance - 2 * math.log(self.scale)).exp()
        squares = (q.mean / self.scale).square()
        return 0.5 * (ratio + squares - 1 - q.log_variance + 2 * math.log(self.scale)).sum()
