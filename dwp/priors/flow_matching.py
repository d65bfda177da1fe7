"""A continuous normalising flow over kernels, trained by flow matching, with an exact density."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dwp.priors._training import trained
from dwp.priors._whitening import Whitening
from dwp.priors.base import register
from dwp.priors.gaussian import Gaussian
from dwp.priors.settings import FlowMatchingSettings

# σ_min of Lipman et al.: standard deviation of the noise around a whitened kernel at t = 1.
NOISE = 0.01
# Cosines of the time among the inputs of the velocity field.
FREQUENCIES = 4


@register
class FlowMatching(Whitening):
    """The flow dx/dt = v(t, x) that takes N(0, I) at t = 0 to whitened kernels x = L⁻¹(w - μ) at t = 1.

    Training regresses v on the velocities of straight paths from noise to kernels (conditional flow
    matching with optimal-transport paths: Lipman et al., ICLR 2023, eq. 22 and 23). The density is that of
    the probability flow, by the instantaneous change of variables (Chen et al. 2018, eq. 8; Lipman et al.,
    appendix C): log p(x(1)) = log N(x(0); 0, I) - ∫ div v(t, x(t)) dt. Samples and densities take the same
    number of steps of the classical Runge-Kutta method, whose error is their only one.

    v is the velocity field of a Gaussian with the mean and covariance of the training kernels, which is
    linear, plus a network with two hidden layers of tanh units, which starts at zero: training only
    learns what that Gaussian lacks. The divergence of such a network is a bilinear form in the
    derivatives of its units, as cheap as v itself.

    Args:
        kernel_size: k.
        hidden: units in each hidden layer.
        ode_steps: Runge-Kutta steps.
    """

    settings_class = FlowMatchingSettings

    def __init__(
        self,
        kernel_size: int,
        hidden: int = FlowMatchingSettings.hidden,
        ode_steps: int = FlowMatchingSettings.ode_steps,
    ) -> None:
        super().__init__(kernel_size, hidden=hidden, ode_steps=ode_steps)
        self.ode_steps = ode_steps
        dimensions = kernel_size**2
        self.first = nn.Linear(dimensions + FREQUENCIES, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, dimensions)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: Any
    ) -> tuple["FlowMatching", list[dict]]:
        """Regress the velocity field; record the held-out log-likelihood each epoch.

        See `Prior.fit`. Matrix products are in the kernels' precision; that of the schedule is ignored.
        """

        def build(kernels: Tensor, settings: dict) -> FlowMatching:
            gaussian = Gaussian.fit(kernels, kernels[:1], {})[0]
            return cls(kernels.shape[-1], **settings).take_moments(gaussian)

        def loss(prior: FlowMatching, w: Tensor) -> tuple[Tensor, dict]:
            with torch.autocast(w.device.type, enabled=False):
                error = prior.matching_error(w)
            return error, {"train_error": error}

        return trained(build, loss, "log_prob", train, test, settings, **training)

    def matching_error(self, w: Tensor) -> Tensor:
        """Return the mean squared error of the velocity of whitened kernels, per weight, at random times.

        Args:
            w: kernels [n, 1, k, k].
        """
        x = self.whiten(w)
        noise, t = torch.randn_like(x), torch.rand_like(x[:, :1])
        position = (1 - (1 - NOISE) * t) * noise + t * x
        target = x - (1 - NOISE) * noise
        return (self.velocity(t, position)[0] - target).square().mean()

    def velocity(self, t: Tensor, x: Tensor, mixing: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return v(t, x), [n, k²], and its divergence, [n].

        Args:
            t: times, [n, 1] or a scalar.
            x: positions, [n, k²].
            mixing: `self.mixing()`, if it is known; without it the divergence is computed from scratch.
        """
        # Half the logarithmic derivative of the variance at t of a path from noise to a Gaussian.
        spread, slope = 1 - (1 - NOISE) * t, t - (1 - NOISE) * (1 - (1 - NOISE) * t)
        rate = slope / (spread.square() + t.square())
        harmonics = torch.arange(1, FREQUENCIES + 1, device=x.device, dtype=x.dtype)
        times = (math.pi * t * harmonics).cos().expand(len(x), FREQUENCIES)
        first = self.first(torch.cat([x, times], 1)).tanh()
        second = self.second(first).tanh()
        mixing = self.mixing() if mixing is None else mixing
        trace = ((1 - second.square()) @ mixing * (1 - first.square())).sum(1)
        divergence = x.shape[1] * rate.expand(len(x), 1)[:, 0] + trace
        return rate * x + self.last(second), divergence

    def mixing(self) -> Tensor:
        """Return B, [hidden, hidden]: the divergence of the network is Σ_ab f′₂a B_ab f′₁b.

        With the weights W₁ (of x only), W₂, W₃ and the derivatives f′ of the units, the Jacobian is
        W₃ diag(f′₂) W₂ diag(f′₁) W₁, and B = W₂ ⊙ (W₁ W₃)ᵀ.
        """
        weights = self.first.weight[:, : self.kernel_size**2]
        return self.second.weight * (weights @ self.last.weight).T

    def _integrated(self, x: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """Move x [n, k²] from time `start` to `end`; return it with the integral of the divergence, [n]."""
        total, mixing = torch.zeros_like(x[:, 0]), self.mixing()
        step = (end - start) / self.ode_steps
        for number in range(self.ode_steps):
            t = x.new_tensor(start + number * step)
            v1, d1 = self.velocity(t, x, mixing)
            v2, d2 = self.velocity(t + step / 2, x + step / 2 * v1, mixing)
            v3, d3 = self.velocity(t + step / 2, x + step / 2 * v2, mixing)
            v4, d4 = self.velocity(t + step, x + step * v3, mixing)
            x = x + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            total = total + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return x, total

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        # In bfloat16 this would not be the density of the samples.
        with torch.autocast(w.device.type, enabled=False):
            noise, divergence = self._integrated(self.whiten(w), 1.0, 0.0)
            log_normal = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(1)
            # The integral is from 1 to 0, and its sign that of the density's.
            return log_normal + divergence - self.factor.diagonal().log().sum()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        x, _ = self._integrated(noise.to(self.mean.device), 0.0, 1.0)
        return self.colour(x).cpu()
