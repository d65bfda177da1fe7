"""A Gaussian over whole kernels, its full covariance fitted to learned ones."""

import math

import torch
from torch import Tensor

from dwp.devices import widened
from dwp.distributions import GaussianPosterior
from dwp.priors.base import Bound, Prior, register

# Added to every variance: a weight that never varies is known no better than to 0.001.
VARIANCE_FLOOR = 1e-6


@register("gaussian")
class Gaussian(Prior):
    """N(μ, Σ) over the k² weights of a kernel (Trockman et al. 2023 draw filters from such a one).

    Σ is the covariance of the training kernels, shrunk towards a multiple of the identity by
    the intensity of Ledoit & Wolf (2004), which vanishes as kernels grow in number, plus
    `VARIANCE_FLOOR`·I: a proper density even from one kernel, or from equal ones.

    Args:
        kernel_size: k.
    """

    fitted = True

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)
        self.register_buffer("mean", torch.zeros(kernel_size**2))
        self.register_buffer("factor", torch.eye(kernel_size**2))
        """Lower Cholesky factor of Σ, [k², k²]."""

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: object
    ) -> tuple["Gaussian", list[dict]]:
        """Estimate mean and covariance; record the held-out log-likelihood. See `Prior.fit`."""
        prior = cls(train.shape[-1], **settings).to(train)
        # On the CPU, since not every device has double precision.
        w = train.flatten(1).cpu().double()
        mean = w.mean(0)
        prior.mean.copy_(mean)
        covariance = (w - mean).T @ (w - mean) / len(w)
        prior.factor.copy_(torch.linalg.cholesky(shrunk(covariance, shrinkage(w))))
        return prior, rows(prior.evaluate(test))

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        return -0.5 * (
            squared_distance(w, self.mean, self.factor)
            + 2 * self.factor.diagonal().log().sum()
            + len(self.mean) * math.log(2 * math.pi)
        )

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; there is no noise for `mean` to leave out."""
        location, factor = self.mean.cpu(), self.factor.cpu()
        noise = torch.randn(n, len(location), generator=generator, dtype=location.dtype)
        return (location + noise @ factor.T).view(n, 1, self.kernel_size, self.kernel_size)

    def kl(self, q: GaussianPosterior, bound: Bound = Bound()) -> Tensor:
        """Return the closed form, in nats, summed; `bound` is not needed."""
        identity = torch.eye(len(self.mean), dtype=self.factor.dtype, device=self.factor.device)
        precision = torch.linalg.solve_triangular(self.factor, identity, upper=False).square().sum(0)
        trace = (q.log_variance.flatten(1).exp() * precision).sum()
        distance = squared_distance(q.mean, self.mean, self.factor).sum()
        log_determinant = 2 * len(q) * self.factor.diagonal().log().sum()
        return 0.5 * (trace + distance + log_determinant - q.log_variance.sum() - q.mean.numel())


def squared_distance(w: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Return (w - μ)ᵀ Σ⁻¹ (w - μ) of kernels [n, 1, k, k], [n]; `factor` is the Cholesky factor of Σ."""
    centred = (widened(w).flatten(1) - mean).T
    return torch.linalg.solve_triangular(factor, centred, upper=False).square().sum(0)


def shrinkage(w: Tensor) -> float:
    """Return the intensity of Ledoit & Wolf (2004) for samples [n, d] on the CPU, from 0 to 1."""
    # Here, so that reading a configuration does not wait for it.
    from sklearn.covariance import ledoit_wolf_shrinkage

    # One sample says nothing of a covariance.
    return ledoit_wolf_shrinkage(w.numpy()) if len(w) > 1 else 1.0


def shrunk(covariance: Tensor, intensity: float) -> Tensor:
    """Return (1 - ρ)·S + (ρ·tr(S)/d + `VARIANCE_FLOOR`)·I for a covariance S [d, d] on the CPU."""
    spherical = intensity * covariance.diagonal().mean() + VARIANCE_FLOOR
    return (1 - intensity) * covariance + spherical * torch.eye(len(covariance), dtype=covariance.dtype)


def rows(metrics: dict[str, float]) -> list[dict]:
    """Return the history {step, metric, value} of a fit without steps."""
    return [{"step": 0, "metric": name, "value": value} for name, value in metrics.items()]
