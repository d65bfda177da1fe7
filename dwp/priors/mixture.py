"""A mixture model of kernels: each is a norm times a direction."""

import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dwp.nn.precision import at_least_float32
from dwp.priors.base import Prior, register
from dwp.priors.gaussian import Gaussian
from dwp.priors.settings import MixtureSettings

# Added to squared norms, so that the density and its gradient are finite at a kernel of zeros.
SQUARE_FLOOR = 1e-24
# Added to the variance of log norms, a standard deviation of 0.001: the norms may all be equal.
VARIANCE_FLOOR = 1e-6

# The fit ends when the objective grows by less, in nats per kernel.
TOLERANCE = 1e-3
ITERATIONS = 200

# Quadrature over a radius: its error is below 3e-4 nats for 2×2 kernels and 2e-7 for 5×5.
_NODES, _WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(12))


@register
class Mixture(Prior):
    """A mixture of C components over kernels w = s·u with the norm s and the direction u = v/‖v‖.

    In component c the direction is a projected normal (angular Gaussian), v ~ N(μ_c, Σ_c) with a full
    covariance, and the log norm is a mixture of G Gaussians, which the components share, with
    weights of component c. So norms are as heavy-tailed or as bounded as those of the training kernels,
    and independent of the direction in a component. With d = k² and v = r·u, the density is exact but for
    a one-dimensional quadrature over r:

        p(w | c) = p(log s | c) · s⁻ᵈ · ∫ rᵈ⁻¹ N(r·u; μ_c, Σ_c) dr.

    The fit is deterministic; an EM algorithm maximises the likelihood with penalties (see `maximise`).

    With uniform directions, C = 1, μ = 0 and Σ = I are fixed, and only the norms are fitted.

    Args:
        kernel_size: k, from 2.
        directions: learned, or uniform on the sphere.
        components: C.
        norms: G.
        shrinkage: weight of the common scatter of directions in each Σ_c, as a number of kernels per weight.
    """

    settings_class = MixtureSettings

    shift: Tensor
    whitening: Tensor
    log_weights: Tensor
    log_norm: Tensor
    log_norm_std: Tensor

    def __init__(
        self,
        kernel_size: int,
        directions: str = MixtureSettings.directions,
        components: int = MixtureSettings.components,
        norms: int = MixtureSettings.norms,
        shrinkage: float = MixtureSettings.shrinkage,
    ) -> None:
        settings = {"directions": directions, "components": components}
        super().__init__(kernel_size, **settings, norms=norms, shrinkage=shrinkage)
        self.uniform, self.shrinkage = directions == "uniform", shrinkage
        if self.uniform:
            components = 1
        dimensions = kernel_size**2
        self.register_buffer("whitening", torch.eye(dimensions).repeat(components, 1, 1))
        """R_c, [C, k², k²], lower triangular, with R_c Σ_c R_cᵀ = I."""
        self.register_buffer("shift", torch.zeros(components, dimensions))
        """R_c μ_c, [C, k²]."""
        self.register_buffer("log_weights", torch.full((components, norms), -math.log(components * norms)))
        """log p(c, g), [C, G]."""
        self.register_buffer("log_norm", torch.zeros(norms))
        """Means of the Gaussians over the log norm, [G]."""
        self.register_buffer("log_norm_std", torch.ones(norms))
        """Their standard deviations, [G]."""

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple[Self, list[dict]]:
        """Maximise the penalised likelihood; record the log density of training kernels in each iteration.

        See `Prior.fit`. The log density of held-out kernels is recorded after the last iteration.
        """
        # On the CPU, since not every device supports double precision.
        prior = cls(train.shape[-1], **settings).double()
        history = prior.maximise(train.cpu().double())
        prior = prior.to(train)
        last = len(history) - 1
        rows = [{"step": i, "metric": "train_log_prob", "value": x} for i, (_, x) in enumerate(history)]
        rows += [{"step": last, "metric": name, "value": x} for name, x in prior.evaluate(test).items()]
        return prior, rows

    def maximise(self, w: Tensor) -> list[tuple[float, float]]:
        """Set the parameters by EM; return the objective and mean log p(w) in each iteration.

        The objective is, in nats per kernel, with the scatter S of directions (times k²), κ = shrinkage·k²,
        and the initial variance t of the norms' Gaussians,

            mean log p(w) - 1/2n · Σ_c κ·(log |Σ_c| + tr(S·Σ_c⁻¹))
                          - 1/2n · Σ_g (2·log τ_g + t/τ_g²) + 1/n · Σ_cg log p(c, g).

        The penalties are conjugate, as if each Σ_c had κ more kernels, and the others one more each. No
        iteration lowers the objective.

        Args:
            w: kernels [n, 1, k, k]; they and the prior are in double precision on the CPU.
        """
        x = w.flatten(1)
        n, dimensions = x.shape
        log_norms = _log_norm(x)
        directions = x / log_norms.exp()[:, None]
        scatter = _scatter(directions)
        components, norms = self.log_weights.shape
        strength = self.shrinkage * dimensions

        # Kernels as means, since components with a common mean would stay alike.
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        means = 0.7 * math.sqrt(dimensions) * directions[order[torch.arange(components) % n]]
        covariances = (0.5 * scatter).repeat(components, 1, 1)
        if self.uniform:
            means, covariances = torch.zeros_like(means), torch.eye(dimensions, dtype=x.dtype)[None]
        self.log_norm.copy_(torch.quantile(log_norms, (torch.arange(norms) + 0.5).double() / norms))
        spread = log_norms.var(correction=0).item() / norms**2 + VARIANCE_FLOOR
        self.log_norm_std.fill_(math.sqrt(spread))
        self.log_weights.fill_(-math.log(components * norms))

        history: list[tuple[float, float]] = []
        while True:
            self.whitening.copy_(_inverse(torch.linalg.cholesky(covariances)))
            self.shift.copy_((self.whitening @ means[:, :, None])[:, :, 0])
            angular, first, second = self._directions(directions)
            joint = angular[:, :, None] + self._norms(log_norms)[:, None] + self.log_weights
            log_density = torch.logsumexp(joint, (1, 2))
            traces = (self.whitening @ scatter @ self.whitening.mT).diagonal(dim1=1, dim2=2).sum()
            penalty = 0.5 * strength * (traces - 2 * self._log_determinants().sum())
            variances = self.log_norm_std.square()
            penalty += 0.5 * (variances.log() + spread / variances).sum() - self.log_weights.sum()
            mean = (log_density - dimensions * log_norms).mean().item()
            history.append((mean - penalty.item() / n, mean))
            if len(history) > ITERATIONS or (
                len(history) > 1 and history[-1][0] - history[-2][0] < TOLERANCE
            ):
                return history

            responsibility = (joint - log_density[:, None, None]).exp()
            share = responsibility.sum(2)
            counts = share.sum(0)
            if not self.uniform:
                means = (share * first).T @ directions / counts.clamp_min(1e-9)[:, None]
            for c, weight in enumerate([] if self.uniform else (share * second).T):
                moment = (weight[:, None] * directions).T @ directions
                moment -= counts[c] * torch.outer(means[c], means[c])
                covariances[c] = (moment + strength * scatter) / (counts[c] + strength)
            by_norm = responsibility.sum(1)
            counts = by_norm.sum(0).clamp_min(1e-9)
            self.log_norm.copy_(log_norms @ by_norm / counts)
            squares = (by_norm * (log_norms[:, None] - self.log_norm).square()).sum(0)
            self.log_norm_std.copy_(((squares + spread) / (counts + 1)).sqrt())
            together = responsibility.sum(0) + 1
            self.log_weights.copy_((together / together.sum()).log())

    def _directions(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log ∫ rᵈ⁻¹ N(r·x; μ_c, Σ_c) dr for x [n, d], and the means of r and r², each [n, C].

        It is the log density of the direction of x minus d·log ‖x‖.
        """
        components, dimensions = self.shift.shape
        white = (x @ self.whitening.flatten(0, 1).T).unflatten(1, (components, dimensions))
        square = white.square().sum(2) + SQUARE_FLOOR
        along = (white * self.shift).sum(2) * square.rsqrt()
        log_integral, mean = _radial(along, dimensions)
        constant = 0.5 * self.shift.square().sum(1) + 0.5 * dimensions * math.log(2 * math.pi)
        angular = log_integral - 0.5 * dimensions * square.log() + self._log_determinants() - constant
        return angular, mean * square.rsqrt(), (dimensions + along * mean) / square

    def _norms(self, log_norms: Tensor) -> Tensor:
        """Return log N(log s; g) for log norms [n], [n, G]."""
        standard = (log_norms[:, None] - self.log_norm) / self.log_norm_std
        return -0.5 * standard.square() - self.log_norm_std.log() - 0.5 * math.log(2 * math.pi)

    def _log_determinants(self) -> Tensor:
        """Return log |R_c|, [C]."""
        return self.whitening.diagonal(dim1=1, dim2=2).log().sum(1)

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the log density, [n], in nats; it is exact but for the error of the quadrature."""
        # In bfloat16 the density would not integrate to one.
        with torch.autocast(w.device.type, enabled=False):
            x = at_least_float32(w).flatten(1)
            # [n, C]: s⁻ᵈ cancels, as the integral is over the kernel and not its direction.
            log_norm = torch.logsumexp(self._norms(_log_norm(x))[:, None] + self.log_weights, 2)
            return torch.logsumexp(self._directions(x)[0] + log_norm, 1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        whitening, shift, log_weights = self.whitening.cpu(), self.shift.cpu(), self.log_weights.cpu()
        chosen = torch.multinomial(log_weights.exp().flatten(), n, replacement=True, generator=generator)
        component, norm = chosen // log_weights.shape[1], chosen % log_weights.shape[1]
        x = torch.randn(n, shift.shape[1], generator=generator, dtype=shift.dtype)
        noise = torch.randn(n, generator=generator, dtype=shift.dtype)
        for c in range(len(shift)):
            mine = component == c
            x[mine] = torch.linalg.solve_triangular(whitening[c], (x[mine] + shift[c]).T, upper=False).T
        log_norm = self.log_norm.cpu()[norm] + self.log_norm_std.cpu()[norm] * noise
        w = x * (log_norm - _log_norm(x)).exp()[:, None]
        return w.view(n, 1, self.kernel_size, self.kernel_size)


def _log_norm(x: Tensor) -> Tensor:
    """Return log ‖x‖ of the rows of x, [n]."""
    return 0.5 * (x.square().sum(1) + SQUARE_FLOOR).log()


def _scatter(directions: Tensor) -> Tensor:
    """Return k² times the second moment of directions [n, k²], shrunk as the covariance of `Gaussian`."""
    n, dimensions = directions.shape
    size = math.isqrt(dimensions)
    gaussian = Gaussian.fit(directions.view(n, 1, size, size), directions[:1].view(1, 1, size, size), {})[0]
    return dimensions * (gaussian.factor @ gaussian.factor.T + torch.outer(gaussian.mean, gaussian.mean))


def _inverse(factors: Tensor) -> Tensor:
    """Return the inverses of lower triangular matrices [C, d, d]."""
    identity = torch.eye(factors.shape[-1], dtype=factors.dtype).expand_as(factors)
    return torch.linalg.solve_triangular(factors, identity, upper=False)


def _radial(t: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return log ∫ qᵈ⁻¹ exp(t·q - q²/2) dq over q > 0, and the mean of q, each with the shape of t.

    This is Gauss-Hermite quadrature over log q around the mode. The nodes are constants to autograd, since
    the integral does not depend on them; its derivative is the mean.
    """
    with torch.no_grad():
        root = (t.square() + 4 * dimensions).sqrt()
        # The second form is the same without cancellation.
        mode = torch.where(t > 0, 0.5 * (root + t), 2 * dimensions / (root - t))
        deviation = (mode.square() + dimensions).rsqrt()
        nodes, weights = _NODES.to(t), _WEIGHTS.to(t)
        log_q = mode.log()[..., None] + deviation[..., None] * nodes
        q = log_q.exp()
        fixed = dimensions * log_q - 0.5 * q.square() + 0.5 * nodes.square() + weights.log()
        fixed += deviation.log()[..., None]
    terms = fixed + t[..., None] * q
    total = torch.logsumexp(terms, -1)
    return total, ((terms - total[..., None]).exp() * q).sum(-1)
