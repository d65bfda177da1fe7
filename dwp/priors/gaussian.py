"""A Gaussian over kernels with a full covariance."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from dwp.nn.precision import at_least_float32
from dwp.priors._conditional import ConditionalPrior
from dwp.priors._elliptical import Elliptical, floor, plus_sphere
from dwp.priors.base import KLEstimator, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import GaussianSettings, PriorSettings


@register
class Gaussian(ConditionalPrior, Elliptical):
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

    def elliptical(self, like: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return mean, factor and infinity; see `Prior.elliptical`."""
        return self.mean, self.factor, math.inf

    def _completed(self, x: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, root = self._conditional(x.cpu().double(), mask.cpu())
        noise = torch.randn(x.shape, generator=generator, dtype=self.mean.dtype).double()
        return mean + torch.linalg.solve_triangular(root.mT, noise[:, :, None], upper=True)[:, :, 0]

    def _conditional_log_prob(self, x: Tensor, mask: Tensor, samples: int) -> Tensor:
        """Return the exact log density, [n], in nats."""
        wide, mask = at_least_float32(x).cpu().double(), mask.cpu()
        mean, root = self._conditional(wide, mask)
        centred = torch.where(mask, 0.0, wide - mean)
        squares = (root.mT @ centred[:, :, None]).square().sum((1, 2))
        constant = (~mask).sum(1) * math.log(2 * math.pi)
        log_density = root.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * (squares + constant)
        return log_density.to(at_least_float32(x))

    def _conditional(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return moments of the unobserved weights given the observed, in double precision on the CPU.

        With Λ = Σ⁻¹, those are the mean μ_u - Λ_uu⁻¹ Λ_uo (o - μ_o), and the lower Cholesky factor of the
        precision Λ_uu. Rows and columns of observed weights are those of the identity.

        Args:
            x: flattened kernels, [n, k²].
            mask: of the observed weights, [1, k²] or [n, k²].

        Returns:
            The mean [n, k²], and the factor [1, k², k²] or [n, k², k²].
        """
        location, precision = self.mean.cpu().double(), torch.cholesky_inverse(self.factor.cpu().double())
        unobserved = (~mask).double()
        kept = unobserved[:, :, None] * precision * unobserved[:, None, :]
        root = torch.linalg.cholesky(kept + torch.diag_embed(1 - unobserved))
        shift = unobserved * (torch.where(mask, x - location, 0.0) @ precision)
        return location - torch.cholesky_solve(shift[:, :, None], root)[:, :, 0], root

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return the KL in closed form, in nats, summed over kernels; `estimator` is ignored."""
        trace = (q.log_variance.flatten(1).exp() * self.precisions()).sum()
        distance = self.squared_distance(q.mean).sum()
        log_determinant = len(q) * self.log_determinant()
        return 0.5 * (trace + distance + log_determinant - q.log_variance.sum() - q.mean.numel())
