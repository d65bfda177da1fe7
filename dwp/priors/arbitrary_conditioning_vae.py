"""A variational autoencoder over kernels that draws any weights given the others."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.nn.perceptron import perceptron
from dwp.nn.precision import at_least_float32
from dwp.priors._conditional import ConditionalPrior
from dwp.priors._training import trained
from dwp.priors.base import register
from dwp.priors.distributions import draw_like, log_normal
from dwp.priors.settings import ArbitraryConditioningVAESettings
from dwp.priors.vae import VARIANCE_FLOOR

# Of the regulariser of p(z | observed): standard deviation of its means, and weight of its deviations' prior.
MEAN_SCALE, DEVIATION_WEIGHT = 1e4, 1e-4


@register
class ArbitraryConditioningVAE(ConditionalPrior):
    """p(u | o) = ∫ p(u | z, o) p(z | o) dz of unobserved weights u given observed ones o, for any mask.

    The model of Ivanov et al. (ICLR 2019): a network each for p(z | o), which sees the mask and the observed
    weights, for the posterior q(z | u, o), which sees all weights and the mask, and for the decoder
    p(u | z, o). All are Gaussians with independent coordinates. Training maximises the bound
    E_q[log p(u | z, o)] - KL(q(z | u, o) || p(z | o)) with random masks, see `random_masks`, with the
    regulariser of the paper, a wide prior over the parameters of p(z | o). With nothing observed this is
    a VAE, whose `log_prob` and `sample` are those of the prior.

    Kernels are standardised, each weight with its mean and variance. Networks have two hidden layers of
    ELU units.

    Args:
        kernel_size: k.
        hidden: units in each hidden layer.
        latent: dimensions of z.
    """

    settings_class = ArbitraryConditioningVAESettings

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        kernel_size: int,
        hidden: int = ArbitraryConditioningVAESettings.hidden,
        latent: int = ArbitraryConditioningVAESettings.latent,
    ) -> None:
        super().__init__(kernel_size, hidden=hidden, latent=latent)
        self.latent = latent
        weights = kernel_size**2
        self.code_prior = perceptron(2 * weights, hidden, 2 * latent, nn.ELU())
        self.posterior = perceptron(2 * weights, hidden, 2 * latent, nn.ELU())
        self.decoder = perceptron(latent + 2 * weights, hidden, 2 * weights, nn.ELU())
        self.register_buffer("mean", torch.zeros(weights))
        """Mean of each weight, [k²]."""
        self.register_buffer("deviation", torch.ones(weights))
        """Standard deviation of each weight, [k²]."""

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: Any
    ) -> tuple["ArbitraryConditioningVAE", list[dict]]:
        """Maximise the bound on the conditional density, averaged over masks; record the held-out bounds.

        See `Prior.fit`. The best epoch is that of the conditional bound. Matrix products are in the kernels'
        precision; that of the schedule is ignored.
        """

        def build(kernels: Tensor, settings: dict) -> ArbitraryConditioningVAE:
            prior = cls(kernels.shape[-1], **settings)
            deviation, mean = torch.std_mean(kernels.flatten(1), 0, correction=0)
            prior.mean.copy_(mean)
            # Weights that are constant, or nearly, are left to the decoder.
            prior.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))
            return prior

        def loss(prior: ArbitraryConditioningVAE, w: Tensor) -> tuple[Tensor, dict]:
            with torch.autocast(w.device.type, enabled=False):
                x = w.flatten(1)
                mask = random_masks(len(w), w.shape[-1]).to(w.device)
                log_likelihood, kl = prior.elbo_terms(x, mask)
                elbo = (log_likelihood - kl).mean()
                mean, variance = prior._code_prior(prior._standardised(x), mask)
                deviation = variance.sqrt()
                penalty = mean.square() / (2 * MEAN_SCALE**2) + DEVIATION_WEIGHT * (
                    deviation - deviation.log()
                )
            return penalty.sum(1).mean() - elbo, {"train_elbo": elbo}

        return trained(build, loss, "conditional_elbo", train, test, settings, **training)

    def elbo_terms(
        self, x: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return log p(u | z, o) for one z ~ q(z | u, o), and KL(q(z | u, o) || p(z | o)); each [n], in nats.

        Args:
            x: flattened kernels, [n, k²].
            mask: of the observed weights, [1, k²] or [n, k²].
            generator: random generator on the CPU; None uses that of the device.
        """
        x, mask = self._standardised(x), mask.expand(x.shape)
        mean, variance = self._posterior(x, mask)
        prior_mean, prior_variance = self._code_prior(x, mask)
        z = mean + variance.sqrt() * draw_like(mean, generator)
        ratio = variance / prior_variance
        kl = 0.5 * (ratio + (mean - prior_mean).square() / prior_variance - 1 - ratio.log()).sum(1)
        return self._log_likelihood(x, z, mask), kl

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return an unbiased estimate of a lower bound on log p(w), [n], in nats; see `VAE.log_prob`."""
        x = w.flatten(1)
        return self._conditional_log_prob(x, torch.zeros_like(x[:1], dtype=torch.bool), samples)

    def _conditional_log_prob(self, x: Tensor, mask: Tensor, samples: int) -> Tensor:
        if samples == 1:
            log_likelihood, kl = self.elbo_terms(x, mask)
            return log_likelihood - kl
        x, mask = self._standardised(x), mask.expand(x.shape)
        moments = [*self._posterior(x, mask), *self._code_prior(x, mask)]
        mean, variance, prior_mean, prior_variance = (moment.repeat(samples, 1) for moment in moments)
        z = mean + variance.sqrt() * torch.randn_like(mean)
        codes = log_normal(z, prior_mean, prior_variance) - log_normal(z, mean, variance)
        log_weight = self._log_likelihood(x.repeat(samples, 1), z, mask.repeat(samples, 1)) + codes.sum(1)
        return torch.logsumexp(log_weight.view(samples, -1), 0) - math.log(samples)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k] given no weight; `mean` omits the decoder's noise."""
        nothing = self.mean.new_zeros(n, len(self.mean))
        drawn = self._completed(nothing, nothing.bool(), generator, mean=mean)
        return drawn.view(n, 1, self.kernel_size, self.kernel_size).cpu()

    def _completed(
        self, x: Tensor, mask: Tensor, generator: torch.Generator | None, *, mean: bool = False
    ) -> Tensor:
        x, mask = self._standardised(x.to(self.mean)), mask.to(self.mean.device).expand(x.shape)
        location, variance = self._code_prior(x, mask)
        z = location + variance.sqrt() * draw_like(location, generator)
        drawn, variance = self._decode(x, z, mask)
        if not mean:
            drawn = drawn + variance.sqrt() * draw_like(drawn, generator)
        return self.mean + self.deviation * drawn

    def reverse_model(self) -> nn.Module:
        """Return the posterior q(z | u, o); training it tightens the bound on log p(w)."""
        return self.posterior

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Return bounds, means over kernels [n, 1, k, k], in nats, with fixed noise.

        Returns:
            `elbo`, `log_likelihood` and `kl` with nothing observed, and `conditional_elbo`, the bound on
            the log density of the unobserved weights, with random masks.
        """
        generator = torch.Generator().manual_seed(0)
        masks = random_masks(len(w), w.shape[-1], generator).to(w.device)
        terms: dict[str, list[Tensor]] = {"log_likelihood": [], "kl": [], "conditional_elbo": []}
        for part, mask in zip(w.split(chunk), masks.split(chunk), strict=True):
            x = part.flatten(1)
            log_likelihood, kl = self.elbo_terms(x, torch.zeros_like(mask), generator)
            conditional, conditional_kl = self.elbo_terms(x, mask, generator)
            for name, term in zip(terms, (log_likelihood, kl, conditional - conditional_kl), strict=True):
                terms[name].append(term)
        means = {name: torch.cat(parts).cpu().double().mean().item() for name, parts in terms.items()}
        return {"elbo": means["log_likelihood"] - means["kl"], **means}

    def _standardised(self, x: Tensor) -> Tensor:
        return (at_least_float32(x) - self.mean) / self.deviation

    def _code_prior(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of p(z | o), each [n, latent], for standardised kernels x [n, k²]."""
        return _moments(self.code_prior(_observed(x, mask)))

    def _posterior(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z | u, o), each [n, latent]."""
        return _moments(self.posterior(torch.cat([x, mask.to(x)], 1)))

    def _decode(self, x: Tensor, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of p(u | z, o), each [n, k²]; those of observed weights are of no use."""
        return _moments(self.decoder(torch.cat([z, _observed(x, mask)], 1)))

    def _log_likelihood(self, x: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        by_weight = log_normal(x, *self._decode(x, z, mask)) - self.deviation.log()
        return torch.where(mask, 0.0, by_weight).sum(1)


def random_masks(n: int, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Return random masks of observed weights for training, boolean, [n, size²], on the CPU.

    With equal probability a mask has no observed weight, those in a random rectangle, or each weight with
    a probability that is uniform in the mask.
    """
    form = torch.rand(n, 1, generator=generator)
    scattered = torch.rand(n, size**2, generator=generator) < torch.rand(n, 1, generator=generator)
    ends = torch.randint(size, (2, 2, n, 1), generator=generator).sort(0).values
    places = torch.arange(size)
    rows, columns = ((ends[0, axis] <= places) & (places <= ends[1, axis]) for axis in range(2))
    rectangles = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    return torch.where(form < 1 / 3, torch.zeros_like(scattered), scattered.where(form < 2 / 3, rectangles))


def _observed(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([torch.where(mask, x, 0.0), mask.to(x)], 1)


def _moments(found: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = at_least_float32(found).chunk(2, 1)
    return mean, functional.softplus(raw) + VARIANCE_FLOOR
