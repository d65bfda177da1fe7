"""The variational autoencoder over kernels: the deep weight prior itself."""

import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.errors import InputError
from dwp.priors.base import Prior, register
from dwp.training import Checkpoint, Schedule, fit

# Below a standard deviation of 0.001 a decoder would only be fitting rounding.
VARIANCE_FLOOR = 1e-6


@register("vae")
class VAE(Prior):
    """p(w) = ∫ p(w|z) N(z; 0, I) dz with convolutional encoder and decoder (paper, section 4 and appendix F).

    One rule gives the architecture for any odd k: 3×3 convolutions without padding
    bring the kernel down to one pixel, the first with `hidden` channels, the rest with
    twice as many; kernels of 5×5 and below pass two padded 3×3 convolutions of `hidden`
    channels first. 1×1 convolutions give mean and variance; the decoder mirrors it
    with transposed convolutions. ELU throughout.

    Args:
        kernel_size: k, odd.
        hidden: channels of the first convolution.
        latent: dimensions of z.
        importance_samples: K of the bound that `log_prob` returns.
    """

    options: ClassVar = {
        name: {"$ref": "#/$defs/count"} for name in ("hidden", "latent", "importance_samples")
    }
    fitted = True
    trained = True
    exact = False

    def __init__(self, kernel_size: int, hidden: int, latent: int, importance_samples: int = 1) -> None:
        super().__init__(kernel_size, hidden=hidden, latent=latent, importance_samples=importance_samples)
        self.check_size(kernel_size)
        self.latent = latent
        self.importance_samples = importance_samples
        shrinking = (kernel_size - 1) // 2
        padded = [1, hidden, hidden] if kernel_size <= 5 else [1]
        widths = [2 * hidden] * shrinking if len(padded) > 1 else [hidden] + [2 * hidden] * (shrinking - 1)
        encoder: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(padded):
            encoder += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU()]
        for inputs, outputs in itertools.pairwise([padded[-1], *widths]):
            encoder += [nn.Conv2d(inputs, outputs, 3), nn.ELU()]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(widths[-1], 2 * latent, 1))
        decoder: list[nn.Module] = [nn.Conv2d(latent, 2 * hidden, 1), nn.ELU()]
        for outputs, inputs in reversed(list(itertools.pairwise([padded[-1], *widths]))):
            decoder += [nn.ConvTranspose2d(inputs, max(outputs, hidden), 3), nn.ELU()]
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(hidden, 2, 1))

    @classmethod
    def check_size(cls, kernel_size: int) -> None:
        """Raise InputError for even sizes and 1."""
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise InputError(f"vae: kernel size {kernel_size} cannot be built; it takes odd sizes from 3")

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: object) -> tuple["VAE", list[dict]]:
        """Maximise the ELBO of training kernels; record the held-out ELBO each epoch.

        Args:
            train: [n, 1, k, k], on the device to train on; `test` likewise.
            settings: `hidden`, `latent` and a `schedule` (see `training.Schedule`).
            training: `seed`, `checkpoint` and `label` for `training.fit`.
        """
        settings = dict(settings)
        schedule = Schedule(**settings.pop("schedule"))
        seed: int = training["seed"]
        checkpoint: Checkpoint | None = training.get("checkpoint")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            prior = cls(train.shape[-1], **settings).to(train.device)

        def loss(w: Tensor) -> tuple[Tensor, dict]:
            log_likelihood, kl = prior.elbo_terms(w)
            elbo = (log_likelihood - kl).mean()
            return -elbo, {"train_elbo": elbo}

        rows = fit(
            prior,
            loss,
            (train,),
            schedule,
            seed=seed,
            evaluate=lambda: prior.evaluate(test),
            every=schedule.steps_per_epoch(len(train)),
            checkpoint=checkpoint,
            label=str(training.get("label", "vae")),
        )
        return prior, rows

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of r(z|w), each [n, latent]."""
        mean, raw = self.encoder(w).float().flatten(1).chunk(2, 1)
        return mean, functional.softplus(raw) + VARIANCE_FLOOR

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of p(w|z) for z [n, latent], each [n, 1, k, k]."""
        mean, raw = self.decoder(z[:, :, None, None]).float().chunk(2, 1)
        return mean, functional.softplus(raw) + VARIANCE_FLOOR

    def elbo_terms(self, w: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return log p(w|z) for one z ~ r(z|w), and KL(r(z|w) || p(z)); each [n], in nats."""
        mean, variance = self.encode(w)
        z = mean + variance.sqrt() * _noise_like(mean, generator)
        kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum(1)
        return _log_normal(w, *self.decode(z)).flatten(1).sum(1), kl

    def log_prob(self, w: Tensor) -> Tensor:
        """Return a lower bound on log p(w), [n], in nats: the ELBO; for K > 1 importance-weighted."""
        samples = self.importance_samples
        if samples == 1:
            log_likelihood, kl = self.elbo_terms(w)
            return log_likelihood - kl
        mean, variance = (moment.repeat(samples, 1) for moment in self.encode(w))
        z = mean + variance.sqrt() * torch.randn_like(mean)
        log_joint = _log_normal(w.repeat(samples, 1, 1, 1), *self.decode(z)).flatten(1).sum(1)
        log_joint = log_joint + _log_normal(z, torch.zeros_like(z), torch.ones_like(z)).sum(1)
        log_weight = log_joint - _log_normal(z, mean, variance).sum(1)
        return torch.logsumexp(log_weight.view(samples, -1), 0) - math.log(samples)

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]: decoder means, with the decoder's noise unless `mean`."""
        device = next(self.parameters()).device
        z = torch.randn(n, self.latent, generator=generator).to(device)
        with torch.no_grad():
            location, variance = self.decode(z)
        if mean:
            return location.cpu()
        return location.cpu() + variance.cpu().sqrt() * torch.randn(location.shape, generator=generator)

    def reverse_model(self) -> nn.Module:
        """Return r(z|w): the tighter it is, the tighter the bound on log p(w) (paper, eq. 9)."""
        return self.encoder

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Return held-out ELBO, log-likelihood and KL, means over kernels, in nats (fixed noise)."""
        generator = torch.Generator().manual_seed(0)
        terms = [self.elbo_terms(part, generator) for part in w.split(chunk)]
        log_likelihood = torch.cat([pair[0] for pair in terms]).double().mean().item()
        kl = torch.cat([pair[1] for pair in terms]).double().mean().item()
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}


def _noise_like(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return torch.randn_like(tensor)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)


def _log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((x - mean).square() / variance + variance.log() + math.log(2 * math.pi))
