"""A multivariate Student's t distribution over kernels: correlated weights with heavy tails."""

import logging
import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from dwp.errors import extra
from dwp.priors._elliptical import Elliptical, floor, plus_sphere
from dwp.priors.base import register
from dwp.priors.settings import StudentTSettings

logger = logging.getLogger(__name__)

# Range of the degrees of freedom: from Cauchy to practically Gaussian.
LOWEST, HIGHEST = 1.0, 1000.0

# In nats per kernel: the fit ends when the objective grows by less; a smaller decrease is a rounding error.
TOLERANCE = 1e-7
ITERATIONS = 1000


@register
class StudentT(Elliptical):
    """The multivariate t_ν(μ, Σ) over the k² weights of a kernel; ν, μ and Σ are fitted.

    Weights of trained networks have heavier tails than a Gaussian, and those of a convolution are
    correlated (Fortuin et al. 2022). The variance s² of the sphere that Σ is shrunk towards is
    fitted as well: a wrong one would be compensated by heavier tails.

    Args:
        kernel_size: k.
    """

    settings_class = StudentTSettings

    freedom: Tensor

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)
        self.register_buffer("freedom", torch.tensor(HIGHEST))
        """Degrees of freedom ν; the covariance is Σ·ν/(ν - 2)."""

    def maximise(self, w: Tensor, strength: float) -> None:
        """Set μ, Σ and ν; see `Elliptical.maximise`.

        The objective is, in nats per kernel, with the strength κ of shrinkage, d = k² and the floor f,

            mean log p(w) - κ/2n · (log |Σ| + d·log(tr Σ⁻¹/d)) - f/2 · tr Σ⁻¹.

        The first penalty is that of an inverse Wishart density with its most likely scale, s² = d/tr Σ⁻¹;
        it is 0 for any sphere. An iteration of the ECME algorithm (Liu & Rubin 1995) maximises over μ
        and Σ given a weight of each kernel, then over the scale of Σ, which saves nine in ten
        iterations, then over ν. None of these steps lowers the objective.

        Raises:
            FloatingPointError: an iteration lowered the objective.
        """
        x = w.flatten(1)
        n, dimensions = x.shape
        share = strength / (n + strength)
        # An initial value that is robust against outliers.
        self.mean.copy_(torch.from_numpy(np.median(x, 0)))
        variance = float(np.median((x - self.mean).square().mean(1)))
        least = floor(variance)
        self.factor.copy_(math.sqrt(variance + least) * torch.eye(dimensions))
        distance = self.squared_distance(w)
        self.freedom.fill_(_freedom(distance, dimensions))
        before = -math.inf
        for _ in range(ITERATIONS):
            weight = (self.freedom + dimensions) / (self.freedom + distance)
            self.mean.copy_(weight @ x / weight.sum())
            centred = x - self.mean
            scatter = plus_sphere((weight[:, None] * centred).T @ centred / n, least)
            self.factor.copy_(torch.linalg.cholesky(_shrunk(scatter, share)))
            distance = self.squared_distance(w)
            size = _size(distance, dimensions, self.freedom.item(), least * self.precisions().sum().item())
            self.factor.mul_(math.sqrt(size))
            distance = distance / size
            self.freedom.fill_(_freedom(distance, dimensions))
            trace = self.precisions().sum()
            unevenness = self.log_determinant() + dimensions * (trace / dimensions).log()
            penalty = 0.5 * (strength / n * unevenness + least * trace)
            after = (self._log_density(distance).mean() - penalty).item()
            if after < before - TOLERANCE:
                raise FloatingPointError(f"student_t: a step took the objective from {before} to {after}")
            if after < before + TOLERANCE:
                return
            before = after
        logger.warning("student_t: the fit to %d kernels has not converged in %d steps", n, ITERATIONS)

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        return self._log_density(self.squared_distance(w))

    def _log_density(self, distance: Tensor) -> Tensor:
        dimensions, freedom = len(self.mean), self.freedom
        constant = (
            torch.lgamma((freedom + dimensions) / 2)
            - torch.lgamma(freedom / 2)
            - 0.5 * dimensions * (freedom * math.pi).log()
            - 0.5 * self.log_determinant()
        )
        return constant - 0.5 * (freedom + dimensions) * torch.log1p(distance / freedom)

    def elliptical(self, like: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return location, factor and degrees of freedom; see `Prior.elliptical`."""
        return self.mean, self.factor, self.freedom.item()

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        location, factor, freedom = self.mean.cpu(), self.factor.cpu(), self.freedom.cpu()
        noise = torch.randn(n, len(location), generator=generator, dtype=location.dtype)
        # PyTorch's only sampler of gamma variables that takes a generator.
        chi_squared = 2 * torch._standard_gamma((freedom / 2).expand(n), generator=generator)
        noise = noise * (freedom / chi_squared).sqrt()[:, None]
        return (location + noise @ factor.T).view(n, 1, self.kernel_size, self.kernel_size)


def _scipy() -> AbstractContextManager[None]:
    return extra("workflow", "fit of student_t")


def _shrunk(scatter: Tensor, share: float) -> Tensor:
    """Return Σ = (1 - ρ)·S + ρ·s²·I with s² = d/tr Σ⁻¹, for a share ρ of the sphere.

    Σ maximises -log |Σ| - tr(S·Σ⁻¹) - ρ/(1 - ρ) · (log |Σ| + d·log tr Σ⁻¹).
    """
    with _scipy():
        from scipy.optimize import brentq

    eigenvalues = torch.linalg.eigvalsh(scatter).numpy()

    def excess(variance: float) -> float:
        return float(np.mean(variance / ((1 - share) * eigenvalues + share * variance))) - 1

    # It increases with s² and has its zero between the extreme eigenvalues; the margin is for equal ones.
    variance = brentq(excess, 0.9 * eigenvalues[0], 1.1 * eigenvalues[-1])
    return plus_sphere((1 - share) * scatter, share * variance)


def _size(distance: Tensor, dimensions: int, freedom: float, penalty: float) -> float:
    """Return the factor on Σ that maximises the objective.

    Args:
        distance: squared distances of kernels, [n].
        dimensions: d.
        freedom: ν.
        penalty: f·tr Σ⁻¹, which the factor divides.
    """
    with _scipy():
        from scipy.optimize import brentq

    squares = distance.numpy()

    def slope(log_size: float) -> float:
        size = math.exp(log_size)
        weighted = (freedom + dimensions) * np.mean(squares / (freedom * size + squares))
        return float(weighted + penalty / size - dimensions)

    return math.exp(brentq(slope, -50, 50))


def _freedom(distance: Tensor, dimensions: int) -> float:
    """Return the degrees of freedom that maximise the likelihood, given squared distances [n]."""
    with _scipy():
        from scipy.optimize import brentq
        from scipy.special import digamma

    squares = distance.numpy()

    def slope(log_freedom: float) -> float:
        # Twice the derivative of the mean log-likelihood.
        freedom = math.exp(log_freedom)
        ratio = squares / freedom
        terms = (freedom + dimensions) * ratio / (freedom + squares) - np.log1p(ratio)
        gammas = digamma((freedom + dimensions) / 2) - digamma(freedom / 2)
        return float(gammas - dimensions / freedom + terms.mean())

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if slope(high) >= 0:
        return HIGHEST
    if slope(low) <= 0:
        return LOWEST
    return math.exp(brentq(slope, low, high))
