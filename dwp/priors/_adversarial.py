"""Base class of priors that are trained on samples, by a generator and discriminators."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dwp.nn.perceptron import perceptron
from dwp.priors._training import trained
from dwp.priors._whitening import Whitening
from dwp.priors.gaussian import Gaussian

# Weight of the squared gradients of a discriminator in its loss.
PENALTY = 1.0
# Share of its old value that the moving average of a parameter keeps in each step.
MOMENTUM = 0.99
# Input of softplus that gives the deviation of codes before training, 0.1.
RAW_DEVIATION = -2.25
# Largest number of kernels to evaluate on, since their distances to as many samples are computed.
EVALUATED = 1000


class Adversarial(Whitening):
    """w = μ + L·G(z) with z ~ N(0, I), and a generator G trained against discriminators.

    All networks have two hidden layers, see whitened kernels and take a step at once, with one optimiser over
    the sum of their losses. The gradients of the discriminators are penalised, which makes simultaneous steps
    converge (Mescheder et al. 2018). Samples are those of moving averages of the networks.

    Subclasses set `latent` and define `losses`.
    """

    latent: int
    """Dimensions of z."""
    trained: nn.ModuleDict
    averaged: nn.ModuleDict

    def _train_and_average(self, **networks: nn.Module) -> None:
        """Set the networks, the generator among them, whose moving averages give samples."""
        self.trained = nn.ModuleDict(networks)
        self.averaged = copy.deepcopy(self.trained)

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple[Self, list[dict]]:
        """Train all networks at once; record the metrics of `evaluate` each epoch.

        See `Prior.fit`. The best epoch is the one with the smallest energy distance. Matrix products are in
        the kernels' precision; that of the schedule is ignored.
        """
        return trained(cls._untrained, cls._loss, "negative_energy", train, test, settings, **training)

    @classmethod
    def _untrained(cls, kernels: Tensor, settings: dict) -> Self:
        gaussian = Gaussian.fit(kernels, kernels[:1], {})[0]
        prior = cls(kernels.shape[-1], **settings).take_moments(gaussian)
        prior.averaged.requires_grad_(False)
        return prior

    def _loss(self, w: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all losses, and its terms; update the moving averages."""
        self._average()
        with torch.autocast(w.device.type, enabled=False):
            terms = self.losses(w)
        return torch.stack(list(terms.values())).sum(), terms

    @torch.no_grad()
    def _average(self) -> None:
        """Update the moving averages."""
        for average, parameter in zip(self.averaged.parameters(), self.trained.parameters(), strict=True):
            average.lerp_(parameter, 1 - MOMENTUM)

    def losses(self, w: Tensor) -> dict[str, Tensor]:
        """Return the loss of every network on kernels [n, 1, k, k].

        Discriminators take inputs without a gradient (`penalised_logits`), and other networks take
        discriminators without a gradient (`fixed_logits`), so that the gradient of the sum is that of each
        network's own loss.
        """
        raise NotImplementedError

    def generate(self, z: Tensor) -> Tensor:
        """Return the kernels [n, 1, k, k] of codes [n, latent]."""
        return self.colour(self.averaged["generator"](z))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        return self.generate(self._codes(n, generator)).cpu()

    def _codes(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draw codes [n, latent] on the CPU, and return them on the prior's device."""
        z = torch.randn(n, self.latent, generator=generator, dtype=self.mean.dtype)
        return z.to(self.mean.device)

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Compare kernels [n, 1, k, k], at most the first 1000, with fixed samples.

        Returns:
            `negative_energy`, an unbiased estimate of minus the squared energy distance of whitened kernels X
            and samples Y, 2·E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (see `scores.energy_test`).
        """
        w = w[:EVALUATED]
        samples = self.sample(len(w), torch.Generator().manual_seed(0)).to(w)
        x, y = (self.whiten(part).cpu().double() for part in (w, samples))
        # Without the distances of kernels from themselves.
        within = (torch.cdist(x, x).mean() + torch.cdist(y, y).mean()) * len(x) / max(1, len(x) - 1)
        return {"negative_energy": -(2 * torch.cdist(x, y).mean() - within).item()}


def penalised_logits(discriminator: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [n] of inputs [n, d] without a gradient for them, and the mean squared gradient."""
    inputs = inputs.detach().requires_grad_()
    logits = discriminator(inputs)[:, 0]
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return logits, gradient.square().sum(1).mean()


def fixed_logits(discriminator: nn.Module, inputs: Tensor) -> Tensor:
    """Return logits [n] of inputs [n, d] without a gradient for the discriminator."""
    fixed = {name: value.detach() for name, value in discriminator.named_parameters()}
    return functional_call(discriminator, fixed, inputs)[:, 0]


def discriminator(inputs: int, hidden: int) -> nn.Module:
    """Return a discriminator, [n, inputs] to [n, 1]."""
    return perceptron(inputs, hidden, 1, nn.LeakyReLU(0.2))


class Residual(nn.Module):
    """A linear map plus a network that starts at zero, [n, inputs] to [n, outputs].

    The linear map starts as the identity if there are as many outputs as inputs.
    With `deviations`, the network also returns as many standard deviations, as a second tensor.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, deviations: int = 0) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.eye_(self.linear.weight)
        self.network = perceptron(inputs, hidden, outputs + deviations, nn.LeakyReLU(0.2))
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Any:
        """Map x [n, inputs] to [n, outputs], with `deviations` also to [n, deviations]."""
        found = self.network(x)
        mean = self.linear(x) + found[:, : self.outputs]
        if found.shape[1] == self.outputs:
            return mean
        return mean, functional.softplus(found[:, self.outputs :] + RAW_DEVIATION)
