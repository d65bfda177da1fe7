"""A variational autoencoder over whitened kernels, whose noise is correlated between weights."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from dwp.nn.precision import at_least_float32
from dwp.nn.seeding import seeded
from dwp.priors.base import Prior, register
from dwp.priors.gaussian import Gaussian
from dwp.priors.settings import WhitenedVAESettings
from dwp.priors.vae import VAE


@register
class WhitenedVAE(Prior):
    """w = μ + Σ^½ x, where x has the distribution of a `VAE`, and μ and Σ are the moments of the kernels.

    The noise of a VAE's decoder is independent in each weight; that of learned kernels is not. Here it
    has the covariance Σ^½ diag(v(z)) Σ^½. Without a code the density is that of `Gaussian`; the code adds
    what kernels have beyond their covariance. The symmetric root (ZCA) leaves each coordinate of x at the
    place of a weight, so that the convolutions of encoder and decoder see an image.

    Args:
        kernel_size: k, from 2.
        settings: those of `VAE`.
    """

    settings_class = WhitenedVAESettings

    mean: Tensor
    root: Tensor

    def __init__(self, kernel_size: int, **settings: Any) -> None:
        super().__init__(kernel_size, **settings)
        self.vae = VAE(kernel_size, **settings)
        self.register_buffer("mean", torch.zeros(kernel_size**2))
        """μ, [k²]."""
        self.register_buffer("root", torch.eye(kernel_size**2))
        """Σ^½, symmetric, [k², k²]."""

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple[Self, list[dict]]:
        """Estimate the moments like `Gaussian`, then fit the VAE; record the held-out ELBO.

        See `Prior.fit`.
        """
        gaussian = Gaussian.fit(train, test, {})[0].cpu().double()
        values, vectors = torch.linalg.eigh(gaussian.factor @ gaussian.factor.T)
        moments = gaussian.mean.to(train), (vectors * values.sqrt() @ vectors.T).to(train)
        vae, rows = VAE.fit(_whitened(train, *moments), _whitened(test, *moments), settings, **training)
        with seeded(training["seed"]):
            prior = cls(train.shape[-1], **vae.settings).to(train)
        prior.vae = vae
        for buffer, moment in zip((prior.mean, prior.root), moments, strict=True):
            buffer.copy_(moment)
        shift = prior.log_determinant().item()
        for row in rows:
            if row["metric"].endswith(("elbo", "log_likelihood")):
                row["value"] -= shift
        return prior.requires_grad_(False), rows

    def whiten(self, w: Tensor) -> Tensor:
        """Return x = Σ^-½ (w - μ) of kernels [n, 1, k, k], of the same shape."""
        return _whitened(at_least_float32(w), self.mean, self.root)

    def colour(self, x: Tensor) -> Tensor:
        """Return the kernels [n, 1, k, k] of whitened ones, of the same shape."""
        return (self.mean.to(x) + x.flatten(1) @ self.root.to(x)).view(x.shape)

    def log_determinant(self) -> Tensor:
        """Return log |Σ^½|, a scalar."""
        return torch.linalg.slogdet(self.root)[1]

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return an unbiased estimate of a lower bound on log p(w), [n], in nats; see `VAE.log_prob`."""
        return self.vae.log_prob(self.whiten(w), samples) - self.log_determinant()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` omits the decoder's noise."""
        return self.colour(self.vae.sample(n, generator, mean=mean))

    def reverse_model(self) -> nn.Module:
        """Return the encoder r(z|x), see `VAE.reverse_model`."""
        return self.vae.reverse_model()

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Return ELBO, log-likelihood and KL, means over kernels, in nats, with fixed noise."""
        found = self.vae.evaluate(self.whiten(w), chunk)
        shift = self.log_determinant().item()
        return {**found, "elbo": found["elbo"] - shift, "log_likelihood": found["log_likelihood"] - shift}


def _whitened(w: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    return torch.linalg.solve(root, (w.flatten(1) - mean).T).T.reshape(w.shape)
