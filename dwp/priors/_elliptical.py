"""Base class of elliptical distributions over kernels, with their fit."""

from typing import Any, Self

import torch
from torch import Tensor

from dwp.priors._whitening import Whitening

# Added to every variance, times the mean variance where that is above 1: a standard deviation of 0.001.
VARIANCE_FLOOR = 1e-6

# Candidates for the strength of shrinkage, κ/k², strongest first.
STRENGTHS = [10 ** (exponent / 2) for exponent in range(6, -9, -1)]
FOLDS = 5
# Largest number of kernels for cross-validation; with more kernels the strength matters less.
CROSS_VALIDATED = 2000


class Elliptical(Whitening):
    """A distribution over the k² weights of a kernel with a location μ and a full scale matrix Σ = L·Lᵀ.

    The fit maximises the likelihood of n training kernels with a penalty that shrinks Σ from
    their scatter S towards a sphere s²·I, to (n·S + κ·s²·I) / (n + κ), as if there were κ more
    kernels with a spherical distribution. Cross-validation on the training kernels chooses κ
    from k² times `STRENGTHS`, by the log density of each fold after a fit to the others. Ties go to
    the strongest, which is also used for fewer than three kernels. The fit is deterministic.

    Subclasses define `maximise` and `log_prob`.

    Args:
        kernel_size: k.
        settings: see `Prior`.
    """

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple[Self, list[dict]]:
        """Maximise the penalised likelihood; record the held-out log-likelihood. See `Prior.fit`."""
        # On the CPU, since not every device supports double precision.
        prior, w = cls(train.shape[-1], **settings).double(), train.cpu().double()
        prior.maximise(w, prior._cross_validated(w))
        prior = prior.to(train)
        metrics = prior.evaluate(test)
        return prior, [{"step": 0, "metric": name, "value": value} for name, value in metrics.items()]

    def maximise(self, w: Tensor, strength: float) -> None:
        """Set the parameters that maximise the penalised likelihood.

        Args:
            w: kernels [n, 1, k, k]; they and the prior are in double precision on the CPU.
            strength: κ, the weight of the sphere as a number of kernels.
        """
        raise NotImplementedError

    def _cross_validated(self, w: Tensor) -> float:
        """Return the κ with the highest cross-validated log density of kernels [n, 1, k, k]."""
        order = torch.randperm(len(w), generator=torch.Generator().manual_seed(0))[:CROSS_VALIDATED]
        folds = torch.arange(len(order)) % FOLDS
        totals = {strength * len(self.mean): 0.0 for strength in STRENGTHS}
        for fold in range(min(FOLDS, len(w)) if len(w) > 2 else 0):
            rest, held_out = w[order[folds != fold]], w[order[folds == fold]]
            for strength in totals:
                self.maximise(rest, strength)
                totals[strength] += self.log_prob(held_out).sum().item()
        return max(totals, key=totals.__getitem__)

    def squared_distance(self, w: Tensor) -> Tensor:
        """Return (w - μ)ᵀ Σ⁻¹ (w - μ) of kernels [n, 1, k, k], [n]."""
        return self.whiten(w).square().sum(1)

    def precisions(self) -> Tensor:
        """Return the diagonal of Σ⁻¹, [k²]."""
        identity = torch.eye(len(self.mean), dtype=self.factor.dtype, device=self.factor.device)
        return torch.linalg.solve_triangular(self.factor, identity, upper=False).square().sum(0)

    def log_determinant(self) -> Tensor:
        """Return log |Σ|, a scalar."""
        return 2 * self.factor.diagonal().log().sum()


def floor(variance: float) -> float:
    """Return the constant to add to every variance, given the mean variance of the weights."""
    return VARIANCE_FLOOR * max(1.0, variance)


def plus_sphere(matrix: Tensor, variance: float) -> Tensor:
    """Return a matrix [k², k²] plus `variance` times the identity."""
    return matrix + variance * torch.eye(len(matrix), dtype=matrix.dtype)
