"""A generative adversarial network over kernels with an encoder: samples and codes without a density."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dwp.nn.perceptron import perceptron
from dwp.priors._training import trained
from dwp.priors._whitening import Whitening
from dwp.priors.base import register
from dwp.priors.distributions import as_kernels
from dwp.priors.gaussian import Gaussian
from dwp.priors.settings import PairwiseAugmentedGANSettings

# Weight of the squared gradients of the discriminators at their inputs.
PENALTY = 1.0
# Share of its old value that the moving average of a parameter keeps in each step.
MOMENTUM = 0.99
# Input of softplus that gives the deviation of codes before training, 0.1.
RAW_DEVIATION = -2.25
# Largest number of kernels to evaluate on, since their distances to as many samples are computed.
EVALUATED = 1000


@register
class PairwiseAugmentedGAN(Whitening):
    """w = μ + L·G(z) with z ~ N(0, I), and an encoder E of kernels as codes (Alanov et al. 2018).

    Two discriminators compare pairs. The first tells kernels with their codes, (w, E(w)), from codes with
    their kernels, (G(z), z) (Donahue et al. 2017; Dumoulin et al. 2017): if it cannot, samples have the
    distribution of the kernels, and E inverts G. The second tells a kernel with a noisy copy, (w, a(w)),
    from a kernel with its reconstruction, (w, G(E(w))). Reconstructions then differ from kernels as the
    noisy copies do.

    Each network has two hidden layers and sees whitened kernels. G and E are linear, the identity if there
    are as many codes as weights, plus a network that starts at zero: an untrained prior is a Gaussian with
    the mean and covariance of the training kernels. The gradients of the discriminators are penalised, which
    makes simultaneous steps of all networks converge (Mescheder et al. 2018); samples and codes are those
    of moving averages of G and E.

    Args:
        kernel_size: k.
        hidden: units in each hidden layer.
        latent: dimensions of z; None: k². With fewer, samples lie on a surface of so many dimensions.
        augmentation: standard deviation of the noise of a, where whitened kernels have 1.
    """

    settings_class = PairwiseAugmentedGANSettings

    def __init__(
        self,
        kernel_size: int,
        hidden: int = PairwiseAugmentedGANSettings.hidden,
        latent: int | None = PairwiseAugmentedGANSettings.latent,
        augmentation: float = PairwiseAugmentedGANSettings.augmentation,
    ) -> None:
        super().__init__(kernel_size, hidden=hidden, latent=latent, augmentation=augmentation)
        dimensions = kernel_size**2
        self.latent, self.augmentation = latent or dimensions, augmentation
        self.trained = nn.ModuleDict(
            {
                "generator": _Residual(self.latent, hidden, dimensions),
                "encoder": _Residual(dimensions, hidden, self.latent, self.latent),
            }
        )
        self.averaged = copy.deepcopy(self.trained)
        self.pair_discriminator = perceptron(dimensions + self.latent, hidden, 1, nn.LeakyReLU(0.2))
        self.reconstruction_discriminator = perceptron(2 * dimensions, hidden, 1, nn.LeakyReLU(0.2))

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: Any
    ) -> tuple["PairwiseAugmentedGAN", list[dict]]:
        """Train all networks at once; record the metrics of `evaluate` each epoch.

        See `Prior.fit`. The best epoch is the one with the smallest energy distance. Matrix products are in
        the kernels' precision; that of the schedule is ignored.
        """

        def build(kernels: Tensor, settings: dict) -> PairwiseAugmentedGAN:
            gaussian = Gaussian.fit(kernels, kernels[:1], {})[0]
            prior = cls(kernels.shape[-1], **settings).take_moments(gaussian)
            prior.averaged.requires_grad_(False)
            return prior

        def loss(prior: PairwiseAugmentedGAN, w: Tensor) -> tuple[Tensor, dict]:
            with torch.autocast(w.device.type, enabled=False):
                return prior.losses(w)

        return trained(build, loss, "negative_energy", train, test, settings, **training)

    def losses(self, w: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses of all networks on kernels [n, 1, k, k], and its terms.

        Each discriminator has the logistic loss with the gradient penalty, on pairs without a gradient;
        generator and encoder have the logistic loss with the labels exchanged, on discriminators without a
        gradient. The gradient of the sum is that of each network's own loss. Moving averages are updated.
        """
        with torch.no_grad():
            for average, parameter in zip(self.averaged.parameters(), self.trained.parameters(), strict=True):
                average.lerp_(parameter, 1 - MOMENTUM)
        x = self.whiten(w)
        codes = _drawn(self.trained["encoder"](x))
        z = torch.randn_like(codes)
        noise = self.augmentation * torch.randn_like(x)
        generator = self.trained["generator"]
        # Of a pair of kernels the second is given by its difference from the first.
        compared = {
            "pair": (self.pair_discriminator, (x, codes), (generator(z), z)),
            "reconstruction": (self.reconstruction_discriminator, (x, noise), (x, generator(codes) - x)),
        }
        terms: dict[str, Tensor] = {}
        for name, (discriminator, first, second) in compared.items():
            pairs = torch.cat([torch.cat(first, 1), torch.cat(second, 1)])
            signs = torch.ones_like(pairs[:, 0])
            signs[len(x) :] = -1
            inputs = pairs.detach().requires_grad_()
            logits = discriminator(inputs)[:, 0]
            (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
            penalty = PENALTY * gradient.square().sum(1).mean()
            terms[f"train_{name}_discriminator"] = 2 * functional.softplus(-signs * logits).mean() + penalty
            fixed = {key: value.detach() for key, value in discriminator.named_parameters()}
            logits = functional_call(discriminator, fixed, pairs)[:, 0]
            terms[f"train_{name}_generator"] = 2 * functional.softplus(signs * logits).mean()
        return torch.stack(list(terms.values())).sum(), terms

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the codes E(w) of kernels [n, 1, k, k], each [n, latent]."""
        mean, deviation = self.averaged["encoder"](self.whiten(as_kernels(w, self.kernel_size)))
        return mean, deviation.square()

    def generate(self, z: Tensor) -> Tensor:
        """Return the kernels [n, 1, k, k] of codes [n, latent]."""
        return self.colour(self.averaged["generator"](z))

    def reconstruct(self, w: Tensor) -> Tensor:
        """Return the kernels of the mean codes of kernels [n, 1, k, k], of the same shape."""
        return self.generate(self.encode(w)[0])

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        z = torch.randn(n, self.latent, generator=generator, dtype=self.mean.dtype)
        return self.generate(z.to(self.mean.device)).cpu()

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Compare kernels [n, 1, k, k], at most the first 1000, with fixed samples and their reconstructions.

        Both metrics are of whitened kernels; higher is better.

        Returns:
            `negative_energy`, an unbiased estimate of minus the squared energy distance of kernels X and
            samples Y, 2·E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (see `scores.energy_test`), and `negative_error`,
            minus the mean squared error of reconstructions, per weight.
        """
        w = w[:EVALUATED]
        samples = self.sample(len(w), torch.Generator().manual_seed(0)).to(w)
        x, y, rebuilt = (self.whiten(part).double().cpu() for part in (w, samples, self.reconstruct(w)))
        # Without the distances of kernels from themselves.
        within = (torch.cdist(x, x).mean() + torch.cdist(y, y).mean()) * len(x) / max(1, len(x) - 1)
        energy = 2 * torch.cdist(x, y).mean() - within
        return {"negative_energy": -energy.item(), "negative_error": -(rebuilt - x).square().mean().item()}


class _Residual(nn.Module):
    """A linear map plus a network that starts at zero, [n, inputs] to [n, outputs].

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
        found = self.network(x)
        mean = self.linear(x) + found[:, : self.outputs]
        if found.shape[1] == self.outputs:
            return mean
        return mean, functional.softplus(found[:, self.outputs :] + RAW_DEVIATION)


def _drawn(moments: tuple[Tensor, Tensor]) -> Tensor:
    mean, deviation = moments
    return mean + deviation * torch.randn_like(mean)
