"""A Gaussian around the weights of a trained layer."""

import math

import torch
from torch import Tensor

from dwp.errors import InputError
from dwp.nn.precision import at_least_float32
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.distributions import GaussianPosterior, PointMass
from dwp.priors.settings import CentredSettings


class Centred(Prior):
    """N(W, scale²) for each weight of a layer, around its weights W in another network.

    The prior of Shwartz-Ziv et al. (2022) with a spherical covariance; its MAP estimate is L2-SP (Li et al.
    2018). Unlike other priors it is over the kernels of one layer in their order, and of no kind that a
    configuration or a file can name.

    Args:
        weight: W, [o, i, k, k].
        scale: the standard deviation.

    Attributes:
        centre: W as kernels, [o·i, 1, k, k].
    """

    settings_class = CentredSettings
    centre: Tensor

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__(weight.shape[-1], scale=scale)
        self.scale = scale
        self.register_buffer("centre", weight.detach().clone().reshape(-1, 1, *weight.shape[2:]))

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [o·i], in nats.

        Raises:
            InputError: there are more or fewer kernels than in the layer.
        """
        self._check(len(w))
        constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        distance = (at_least_float32(w) - self.centre) / self.scale
        return -(0.5 * distance.square() + constant).flatten(1).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw the kernels of the layer, [o·i, 1, k, k]; n is o·i, and `mean` is ignored.

        Raises:
            InputError: n is another number.
        """
        self._check(n)
        centre = self.centre.cpu()
        return centre + self.scale * torch.randn(centre.shape, generator=generator, dtype=centre.dtype)

    def elliptical(self, like: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return the weights, a multiple of the identity and infinity; see `Prior.elliptical`."""
        centre = self.centre.flatten(1)
        return centre, self.scale * torch.eye(centre.shape[1]).to(centre), math.inf

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return the KL in closed form, in nats, summed over kernels; `estimator` is ignored."""
        return self.cross_entropy(q) - q.entropy()

    def cross_entropy(
        self, q: GaussianPosterior | PointMass, estimator: KLEstimator = KLEstimator()
    ) -> Tensor:
        """Return E_q[-log p(w)] in closed form, in nats, summed over kernels; `estimator` is ignored."""
        at_mean = -self.log_prob(q.mean).sum()
        if isinstance(q, PointMass):
            return at_mean
        return at_mean + 0.5 * q.log_variance.exp().sum() / self.scale**2

    def _check(self, kernels: int) -> None:
        if kernels != len(self.centre):
            raise InputError(f"centred: {kernels} kernels; it is over the {len(self.centre)} of one layer")
