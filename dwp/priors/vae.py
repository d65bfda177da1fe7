"""The deep weight prior: a variational autoencoder over kernels."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recomputed

from dwp.nn.conv import Conv2d, ConvTranspose2d
from dwp.nn.precision import at_least_float32
from dwp.priors._training import trained
from dwp.priors.base import Prior, register
from dwp.priors.distributions import draw_like, log_normal
from dwp.priors.settings import VAESettings

# Lower bound on variances, a standard deviation of 0.001: below it a decoder would fit rounding errors.
VARIANCE_FLOOR = 1e-6

# Codes to decode at a time: about 0.7 GB of activations for 5×5 kernels with hidden 64.
CODES = 16_384


@register
class VAE(Prior):
    """p(w) = ∫ p(w|z) p(z) dz with convolutional encoder and decoder (paper, section 4 and appendix F).

    One rule gives the architecture for any k. Convolutions without padding, 3×3 on an odd size and
    2×2 on an even one, reduce the kernel to one pixel, with stride 2 above 7×7. The first has `hidden`
    channels, the others twice as many. For kernels up to 5×5, two padded 3×3 convolutions of `hidden`
    channels come first, and all others have twice as many. 1×1 convolutions give mean and variance.
    The decoder mirrors the encoder with transposed convolutions. Activations are ELU. For 7×7 and 5×5
    this is the architecture of the paper.

    The prior over codes is N(0, I), or a VampPrior (Tomczak & Welling 2018):
    p(z) = 1/U Σ_u r(z|w_u) with learned pseudo-kernels w_u.

    Args:
        kernel_size: k, from 2.
        hidden: channels of the first convolution.
        latent: dimensions of z.
        code_prior: 'standard_normal' or 'vamp'.
        pseudo_inputs: U, for 'vamp'.
    """

    settings_class = VAESettings

    pseudo: nn.Parameter
    _fixed: Tensor | None

    def __init__(
        self,
        kernel_size: int,
        hidden: int,
        latent: int,
        code_prior: str = VAESettings.code_prior,
        pseudo_inputs: int = VAESettings.pseudo_inputs,
    ) -> None:
        settings = {"hidden": hidden, "latent": latent, "code_prior": code_prior}
        super().__init__(kernel_size, **settings, pseudo_inputs=pseudo_inputs)
        self.latent = latent
        steps = list(_down_to_one(kernel_size))
        padded = [1, hidden, hidden] if kernel_size <= 5 else [1]
        first = [2 * hidden if len(padded) > 1 else hidden]
        widths = [padded[-1], *first, *[2 * hidden] * (len(steps) - 1)]
        encoder: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(padded):
            encoder += [Conv2d(inputs, outputs, 3, padding=1), _ELU()]
        layers = list(zip(itertools.pairwise(widths), steps, strict=True))
        for (inputs, outputs), step in layers:
            encoder += [Conv2d(inputs, outputs, **step), _ELU()]
        self.encoder = nn.Sequential(*encoder, Conv2d(widths[-1], 2 * latent, 1))
        decoder: list[nn.Module] = [Conv2d(latent, widths[-1], 1), _ELU()]
        for (outputs, inputs), step in reversed(layers):
            decoder += [ConvTranspose2d(inputs, max(outputs, hidden), **step), _ELU()]
        self.decoder = nn.Sequential(*decoder, Conv2d(hidden, 2, 1))
        if code_prior == "vamp":
            self.pseudo = nn.Parameter(torch.randn(pseudo_inputs, 1, kernel_size, kernel_size))
        self.register_buffer("_fixed", None, persistent=False)

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple["VAE", list[dict]]:
        """Maximise the ELBO of training kernels; record the held-out ELBO each epoch. See `Prior.fit`."""

        def build(kernels: Tensor, settings: dict) -> VAE:
            prior = cls(kernels.shape[-1], **settings)
            if prior.vamp:
                count = len(prior.pseudo)
                chosen = torch.randperm(len(kernels)).repeat(math.ceil(count / len(kernels)))[:count]
                prior.pseudo.data.copy_(kernels[chosen.to(kernels.device)])
            return prior

        def loss(prior: VAE, w: Tensor) -> tuple[Tensor, dict]:
            log_likelihood, kl = prior.elbo_terms(w)
            elbo = (log_likelihood - kl).mean()
            return -elbo, {"train_elbo": elbo}

        return trained(build, loss, "elbo", train, test, settings, **training)

    @property
    def vamp(self) -> bool:
        """Return whether p(z) is a VampPrior."""
        return hasattr(self, "pseudo")

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of r(z|w) for w [n, 1, k, k], each [n, latent]."""
        mean, raw = at_least_float32(self.encoder(w)).flatten(1).chunk(2, 1)
        return mean, functional.softplus(raw) + VARIANCE_FLOOR

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of p(w|z) for z [n, latent], each [n, 1, k, k]."""
        mean, raw = at_least_float32(self.decoder(z[:, :, None, None])).chunk(2, 1)
        return mean, functional.softplus(raw) + VARIANCE_FLOOR

    def code_log_prob(self, z: Tensor) -> Tensor:
        """Return the exact log p(z) of codes [n, latent], [n], in nats."""
        if not self.vamp:
            return log_normal(z, torch.zeros_like(z), torch.ones_like(z)).sum(1)
        mean, variance = self._components()
        return torch.logsumexp(log_normal(z[:, None], mean, variance).sum(2), 1) - math.log(len(mean))

    def code_kl(self, mean: Tensor, variance: Tensor, z: Tensor | None = None) -> Tensor:
        """Return KL(N(mean, variance) || p(z)) for each of n codes, [n], in nats.

        It is in closed form for the standard normal, and an unbiased estimate for the VampPrior.

        Args:
            mean: [n, latent].
            variance: [n, latent].
            z: a sample of each code for the estimate, [n, latent]; None draws it.
        """
        if not self.vamp:
            return 0.5 * (variance + mean.square() - 1 - variance.log()).sum(1)
        if z is None:
            z = mean + variance.sqrt() * torch.randn_like(mean)
        return log_normal(z, mean, variance).sum(1) - self.code_log_prob(z)

    def sample_codes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes from p(z), [n, latent], on the prior's device; the generator is on the CPU."""
        like = next(self.parameters())
        noise = torch.randn(n, self.latent, generator=generator, dtype=like.dtype).to(like.device)
        if not self.vamp:
            return noise
        chosen = torch.randint(len(self.pseudo), (n,), generator=generator).to(like.device)
        mean, variance = self._components()
        return mean[chosen] + variance[chosen].sqrt() * noise

    def _components(self) -> tuple[Tensor, Tensor]:
        if self._fixed is None:
            return self.encode(self.pseudo)
        mean, variance = self._fixed
        return mean, variance

    def elbo_terms(self, w: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return log p(w|z) for one z ~ r(z|w), and KL(r(z|w) || p(z)); each [n], in nats."""
        w = at_least_float32(w)
        mean, variance = self.encode(w)
        z = mean + variance.sqrt() * draw_like(mean, generator)
        return log_normal(w, *self.decode(z)).flatten(1).sum(1), self.code_kl(mean, variance, z)

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return an unbiased estimate of a lower bound on log p(w), [n], in nats.

        For K = 1 it is the ELBO, for larger K the importance-weighted bound
        log 1/K Σ_k p(w|z_k) p(z_k) / r(z_k|w) with z_k ~ r(z|w) (Burda et al. 2016).
        Above `CODES` codes (K·n), the backward pass recomputes activations.
        """
        parts = w.split(max(1, CODES // samples))
        if len(parts) == 1:
            return self._bound(w, samples)
        return torch.cat([recomputed(self._bound, part, samples, use_reentrant=False) for part in parts])

    def _bound(self, w: Tensor, samples: int) -> Tensor:
        if samples == 1:
            log_likelihood, kl = self.elbo_terms(w)
            return log_likelihood - kl
        w = at_least_float32(w)
        mean, variance = (moment.repeat(samples, 1) for moment in self.encode(w))
        z = mean + variance.sqrt() * torch.randn_like(mean)
        log_weight = self._log_weight(w.repeat(samples, 1, 1, 1), z, mean, variance)
        return torch.logsumexp(log_weight.view(samples, -1), 0) - math.log(samples)

    def _log_weight(self, w: Tensor, z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Return log p(w|z) p(z) / r(z|w) for codes [n, latent] and the moments of r, [n]."""
        log_joint = log_normal(w, *self.decode(z)).flatten(1).sum(1) + self.code_log_prob(z)
        return log_joint - log_normal(z, mean, variance).sum(1)

    @torch.no_grad()
    def sandwich(
        self, n: int, samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return estimates of a lower and an upper bound on log p(w) for n samples w of the prior, each [n].

        Their means over samples bound the negative entropy of the prior on both sides, and the gap, which
        shrinks with K, is that of `log_prob` on kernels like the samples. The lower bound has K codes of
        r(z|w); the upper one also the code from which w was drawn, which is a draw of p(z|w) (Molchanov et
        al. 2019, "Doubly semi-implicit variational inference"; Sobolev & Vetrov 2019). Other kernels have
        no upper bound, since the code behind them is not known.

        Args:
            n: number of kernels.
            samples: K.
            generator: random generator on the CPU; None uses PyTorch's default.
        """
        codes = self.sample_codes(n, generator)
        location, deviation = self.decode(codes)
        w = location + deviation.sqrt() * draw_like(location, generator)
        mean, variance = self.encode(w)
        log_weights = [self._log_weight(w, codes, mean, variance)]
        for _ in range(samples):
            z = mean + variance.sqrt() * draw_like(mean, generator)
            log_weights.append(self._log_weight(w, z, mean, variance))
        every = torch.stack(log_weights)
        lower = torch.logsumexp(every[1:], 0) - math.log(samples)
        return lower, torch.logsumexp(every, 0) - math.log(samples + 1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]: decoder means, plus the decoder's noise unless `mean`."""
        location, variance = (moment.cpu() for moment in self.decode(self.sample_codes(n, generator)))
        if mean:
            return location
        return location + variance.sqrt() * torch.randn(
            location.shape, generator=generator, dtype=location.dtype
        )

    def reverse_model(self) -> nn.Module:
        """Return the encoder r(z|w); training it tightens the bound on log p(w) (paper, eq. 9)."""
        if self.vamp:
            # The encoder also defines p(z), which is part of the prior and must stay as fitted.
            self._fixed = torch.stack(list(self._components())).detach()
        return self.encoder

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Return ELBO, log-likelihood and KL, means over kernels [n, 1, k, k], in nats, with fixed noise."""
        generator = torch.Generator().manual_seed(0)
        terms = [self.elbo_terms(part, generator) for part in w.split(chunk)]
        log_likelihood = torch.cat([pair[0] for pair in terms]).cpu().double().mean().item()
        kl = torch.cat([pair[1] for pair in terms]).cpu().double().mean().item()
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}


class _ELU(nn.ELU):
    """`nn.ELU` that saves its output, which the next layer saves anyway, instead of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x to the same shape."""
        return _ELUByResult.apply(x)


class _ELUByResult(torch.autograd.Function):
    # In the form that function transforms such as `torch.func.grad` and `vmap` can take.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return functional.elu(x)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        context.save_for_backward(output)

    @staticmethod
    def backward(context: Any, dy: Tensor) -> Tensor:
        (y,) = context.saved_tensors
        return torch.ops.aten.elu_backward(dy, 1.0, 1.0, 1.0, True, y)


def _down_to_one(size: int) -> Iterator[dict[str, int]]:
    """Yield kernel sizes and strides of convolutions that reduce size×size to 1×1 without a remainder."""
    while size > 1:
        kernel, stride = (3 if size % 2 else 2), (2 if size > 7 else 1)
        yield {"kernel_size": kernel, "stride": stride}
        size = (size - kernel) // stride + 1
