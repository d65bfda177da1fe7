"""A mixture of Gaussians over kernels, each with a full covariance."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional

from dwp.nn.precision import at_least_float32
from dwp.priors.base import Prior, register
from dwp.priors.gaussian import Gaussian
from dwp.priors.settings import GaussianMixtureSettings

# The fit ends when the objective grows by less, in nats per kernel.
TOLERANCE = 1e-3
ITERATIONS = 200
# One kernel in this many is held out to choose the number of components.
HELD_OUT = 5


@register
class GaussianMixture(Prior):
    """p(w) = Σ_c π_c N(w; μ_c, Σ_c) over the k² weights of a kernel.

    The EM algorithm (Dempster, Laird & Rubin 1977) maximises the likelihood with conjugate penalties
    (Fraley & Raftery 2007): each Σ_c is shrunk towards the covariance of `Gaussian`, which is itself
    shrunk. The number of components is that of 1, 2, 4, … whose fit to four fifths of the training
    kernels gives the others the highest density; ties go to the smallest. The fit is deterministic.

    Args:
        kernel_size: k.
        components: C; for `fit`, the largest one.
        shrinkage: weight of the common covariance in each Σ_c, as a number of kernels per weight.
    """

    settings_class = GaussianMixtureSettings

    log_weights: Tensor
    mean: Tensor
    factor: Tensor

    def __init__(
        self,
        kernel_size: int,
        components: int = GaussianMixtureSettings.components,
        shrinkage: float = GaussianMixtureSettings.shrinkage,
    ) -> None:
        super().__init__(kernel_size, components=components, shrinkage=shrinkage)
        self.shrinkage = shrinkage
        dimensions = kernel_size**2
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        """log π_c, [C]."""
        self.register_buffer("mean", torch.zeros(components, dimensions))
        """μ_c, [C, k²]."""
        self.register_buffer("factor", torch.eye(dimensions).repeat(components, 1, 1))
        """Lower Cholesky factors of Σ_c, [C, k², k²]."""

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: Any
    ) -> tuple["GaussianMixture", list[dict]]:
        """Choose C and maximise the penalised likelihood; record the held-out log-likelihood.

        See `Prior.fit`. The setting `components` of the prior is the chosen C.
        """
        # On the CPU, since not every device supports double precision.
        w, size = train.cpu().double(), train.shape[-1]
        order = torch.randperm(len(w), generator=torch.Generator().manual_seed(0))
        apart = w[order[: len(w) // HELD_OUT]]
        rest = w[order[len(apart) :]]
        most = cls(size, **settings).settings["components"]
        counts = [2**power for power in range(most.bit_length()) if 2**power <= max(1, len(rest))]

        def fitted(kernels: Tensor, count: int) -> GaussianMixture:
            prior = cls(size, **settings | {"components": count}).double()
            prior.maximise(kernels)
            return prior

        best = counts[0]
        if len(apart) and len(counts) > 1:
            densities = {count: fitted(rest, count).evaluate(apart)["log_prob"] for count in counts}
            best = max(densities, key=densities.__getitem__)
        prior = fitted(w, best).to(train)
        metrics = prior.evaluate(test)
        return prior, [{"step": 0, "metric": name, "value": value} for name, value in metrics.items()]

    def maximise(self, w: Tensor) -> list[float]:
        """Set all parameters; return the objective after each iteration.

        The objective is, in nats per kernel, with the common covariance Σ and κ = shrinkage·k²,

            mean log p(w) - 1/2n · Σ_c κ·(log |Σ_c| + tr(Σ·Σ_c⁻¹)) + 1/n · Σ_c log π_c.

        Its maximiser given the shares r of components in kernels, n_c in total, is
        Σ_c = (Σ_n r_nc (w_n - μ_c)(w_n - μ_c)ᵀ + κ·Σ) / (n_c + κ). No iteration lowers it.

        Args:
            w: kernels [n, 1, k, k]; they and the prior are in double precision on the CPU.
        """
        x = w.flatten(1)
        n, dimensions = x.shape
        components = len(self.mean)
        common = Gaussian.fit(w, w[:1], {})[0]
        covariance = common.factor @ common.factor.T
        strength = self.shrinkage * dimensions
        # Shells with equal numbers of kernels, since kernels differ in scale before all else.
        shell = common.squared_distance(w).argsort().argsort() * components // n
        share = functional.one_hot(shell, components).double()

        history: list[float] = []
        while True:
            counts = share.sum(0)
            self.mean.copy_(share.T @ x / counts.clamp_min(1e-9)[:, None])
            for c in range(components):
                centred = x - self.mean[c]
                scatter = (share[:, c, None] * centred).T @ centred + strength * covariance
                self.factor[c] = torch.linalg.cholesky(scatter / (counts[c] + strength))
            self.log_weights.copy_(((counts + 1) / (n + components)).log())

            joint = self._joint(x)
            log_density = torch.logsumexp(joint, 1)
            traces = torch.cholesky_solve(covariance.expand_as(self.factor), self.factor)
            penalty = 0.5 * strength * traces.diagonal(dim1=1, dim2=2).sum()
            penalty += strength * self.factor.diagonal(dim1=1, dim2=2).log().sum() - self.log_weights.sum()
            history.append((log_density.mean() - penalty / n).item())
            if len(history) > ITERATIONS or (len(history) > 1 and history[-1] - history[-2] < TOLERANCE):
                return history
            share = (joint - log_density[:, None]).exp()

    def _joint(self, x: Tensor) -> Tensor:
        """Return log p(w, c) of flattened kernels [n, k²], [n, C], one component at a time."""
        parts = [
            MultivariateNormal(mean, scale_tril=factor, validate_args=False).log_prob(x)
            for mean, factor in zip(self.mean, self.factor, strict=True)
        ]
        return torch.stack(parts, 1) + self.log_weights

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        return torch.logsumexp(self._joint(at_least_float32(w).flatten(1)), 1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        location, factor, weights = self.mean.cpu(), self.factor.cpu(), self.log_weights.cpu().exp()
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        x = torch.randn(n, location.shape[1], generator=generator, dtype=location.dtype)
        for c in range(len(location)):
            x[chosen == c] = location[c] + x[chosen == c] @ factor[c].T
        return x.view(n, 1, self.kernel_size, self.kernel_size)
