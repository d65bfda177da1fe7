"""A sampler of kernels that is trained for its acceptance rate in the Metropolis-Hastings algorithm."""

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
from dwp.priors.settings import MetropolisHastingsSettings

# Weight of the squared gradients of the ratio in its loss. A larger one flattens the ratio; without one it
# overfits.
RATIO_PENALTY = 0.01


@register
class MetropolisHastings(Adversarial):
    """Chains that accept or reject the samples of a generator, w = μ + L·G(z) (Neklyudov et al. 2018).

    With the density p of the kernels and q of the generator, an independent proposal w' ~ q is accepted at
    w ~ p with probability min(1, ξ), ξ = p(w')·q(w) / (p(w)·q(w')). The expected probability is
    1 - TV(p(w)q(w'), q(w)p(w')), so it is 1 only for q = p. A discriminator D tells kernels from samples of
    the generator in pairs, by the logistic loss of D(w) - D(w'), whose minimiser is log p/q up to a constant.
    The generator maximises E log σ(D(w') - D(w)), a lower bound of E log min(1, ξ) and so of the logarithm
    of the acceptance rate. The chain takes the ratio from a second discriminator with a smaller penalty of
    its gradients: the penalty that lets the generator converge makes the ratio too flat.

    G starts as the identity: an untrained prior is a Gaussian with the mean and covariance of the training
    kernels. For training see `Adversarial`.

    Args:
        kernel_size: k.
        hidden: units in each hidden layer.
        proposals: steps of the chain of each sample.
    """

    settings_class = MetropolisHastingsSettings

    def __init__(
        self,
        kernel_size: int,
        hidden: int = MetropolisHastingsSettings.hidden,
        proposals: int = MetropolisHastingsSettings.proposals,
    ) -> None:
        super().__init__(kernel_size, hidden=hidden, proposals=proposals)
        self.latent, self.proposals = kernel_size**2, proposals
        self._train_and_average(
            generator=Residual(self.latent, hidden, self.latent),
            discriminator=discriminator(self.latent, hidden),
            ratio=discriminator(self.latent, hidden),
        )

    def losses(self, w: Tensor) -> dict[str, Tensor]:
        """Return the losses of all networks on kernels [n, 1, k, k]; see `Adversarial.losses`."""
        x = self.whiten(w)
        both = torch.cat([x, self.trained["generator"](torch.randn_like(x))])
        terms = {}
        for name, weight in (("discriminator", PENALTY), ("ratio", RATIO_PENALTY)):
            logits, penalty = penalised_logits(self.trained[name], both)
            terms[f"train_{name}"] = _pairwise(logits) + weight * penalty
        logits = fixed_logits(self.trained["discriminator"], both)
        return terms | {"train_generator": _pairwise(-logits)}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k], each the end of a chain of its own; `mean` is ignored."""
        w = super().sample(n, generator)
        for _ in range(self.proposals):
            w = self.advance(w, generator)
        return w

    @torch.no_grad()
    def advance(self, w: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Take one Metropolis-Hastings step in each chain.

        Args:
            w: states of the chains, [n, 1, k, k].
            generator: random generator on the CPU; None uses PyTorch's default.

        Returns:
            The next states on the CPU, [n, 1, k, k].
        """
        proposed = super().sample(len(w), generator)
        uniform = torch.rand(len(w), generator=generator, dtype=torch.float64)
        accepted = uniform < self.acceptance(w, proposed)
        return torch.where(accepted.view(-1, 1, 1, 1), proposed, w.cpu())

    def acceptance(self, w: Tensor, proposed: Tensor) -> Tensor:
        """Return the acceptance probability of each proposal, by the learned ratio of densities.

        Args:
            w: states, [n, 1, k, k].
            proposed: samples of the generator, [n, 1, k, k].

        Returns:
            Probabilities [n] on the CPU, in double precision.
        """
        ratio = self.averaged["ratio"]
        here, there = (ratio(self.whiten(part.to(self.mean.device)))[:, 0] for part in (w, proposed))
        return (there - here).cpu().double().clamp_max(0).exp()

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Compare kernels [n, 1, k, k], at most the first 1000, with fixed samples; higher is better.

        Returns:
            `negative_energy` of `Adversarial.evaluate`, and `acceptance`, the mean acceptance probability of
            samples of the generator, proposed where the chain is at a kernel.
        """
        w = w[:EVALUATED]
        proposed = super().sample(len(w), torch.Generator().manual_seed(1)).to(w)
        return super().evaluate(w, chunk) | {"acceptance": self.acceptance(w, proposed).mean().item()}


def _pairwise(logits: Tensor) -> Tensor:
    """Return the mean logistic loss of kernels against samples, from the logits of both, [2·n]."""
    real, drawn = logits.chunk(2)
    return functional.softplus(drawn - real).mean()
