"""A generative adversarial network over kernels with an encoder: samples and codes without a density."""

import torch
from torch import Tensor
from torch.nn import functional

from dwp.priors._adversarial import (
    EVALUATED,
    PENALTY,
    Adversarial,
    Residual,
    discriminator,
    fixed_logits,
    penalised_logits,
)
from dwp.priors.base import register
from dwp.priors.distributions import as_kernels
from dwp.priors.settings import PairwiseAugmentedGANSettings


@register
class PairwiseAugmentedGAN(Adversarial):
    """w = μ + L·G(z) with z ~ N(0, I), and an encoder E of kernels as codes (Alanov et al. 2018).

    Two discriminators compare pairs. The first tells kernels with their codes, (w, E(w)), from codes with
    their kernels, (G(z), z) (Donahue et al. 2017; Dumoulin et al. 2017): if it cannot, samples have the
    distribution of the kernels, and E inverts G. The second tells a kernel with a noisy copy, (w, a(w)),
    from a kernel with its reconstruction, (w, G(E(w))). Reconstructions then differ from kernels as the
    noisy copies do.

    G and E are linear, the identity if there are as many codes as weights, plus a network that starts at
    zero: an untrained prior is a Gaussian with the mean and covariance of the training kernels. For training
    see `Adversarial`.

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
        self._train_and_average(
            generator=Residual(self.latent, hidden, dimensions),
            encoder=Residual(dimensions, hidden, self.latent, self.latent),
        )
        self.pair_discriminator = discriminator(dimensions + self.latent, hidden)
        self.reconstruction_discriminator = discriminator(2 * dimensions, hidden)

    def losses(self, w: Tensor) -> dict[str, Tensor]:
        """Return the losses of all networks on kernels [n, 1, k, k]; see `Adversarial.losses`.

        Each discriminator has the logistic loss with the gradient penalty; generator and encoder have the
        logistic loss with the labels exchanged.
        """
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
        for name, (judge, first, second) in compared.items():
            pairs = torch.cat([torch.cat(first, 1), torch.cat(second, 1)])
            signs = torch.ones_like(pairs[:, 0])
            signs[len(x) :] = -1
            logits, penalty = penalised_logits(judge, pairs)
            loss = 2 * functional.softplus(-signs * logits).mean()
            terms[f"train_{name}_discriminator"] = loss + PENALTY * penalty
            logits = fixed_logits(judge, pairs)
            terms[f"train_{name}_generator"] = 2 * functional.softplus(signs * logits).mean()
        return terms

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the codes E(w) of kernels [n, 1, k, k], each [n, latent]."""
        mean, deviation = self.averaged["encoder"](self.whiten(as_kernels(w, self.kernel_size)))
        return mean, deviation.square()

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels of codes [n, latent] and their variances, which are 0, each [n, 1, k, k]."""
        w = self.generate(z)
        return w, torch.zeros_like(w)

    def code_kl(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return KL(N(mean, variance) || N(0, I)) for each of n codes [n, latent], [n], in nats."""
        return 0.5 * (variance + mean.square() - 1 - variance.log()).sum(1)

    def reconstruct(self, w: Tensor) -> Tensor:
        """Return the kernels of the mean codes of kernels [n, 1, k, k], of the same shape."""
        return self.generate(self.encode(w)[0])

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Compare kernels [n, 1, k, k], at most the first 1000, with samples and with their reconstructions.

        Both metrics are of whitened kernels; higher is better.

        Returns:
            `negative_energy` of `Adversarial.evaluate`, and `negative_error`, minus the mean squared error of
            reconstructions, per weight.
        """
        w = w[:EVALUATED]
        metrics = super().evaluate(w, chunk)
        x, rebuilt = (self.whiten(part).cpu().double() for part in (w, self.reconstruct(w)))
        return metrics | {"negative_error": -(rebuilt - x).square().mean().item()}


def _drawn(moments: tuple[Tensor, Tensor]) -> Tensor:
    mean, deviation = moments
    return mean + deviation * torch.randn_like(mean)
