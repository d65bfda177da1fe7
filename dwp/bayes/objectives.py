"""Training objectives of ordinary and Bayesian classifiers, per example.

Each function returns a loss: a function from a minibatch to a scalar and its terms, see `training.fit`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes import layers
from dwp.bayes.posteriors import Factorised
from dwp.errors import InputError
from dwp.nn.convnet import squared_norm
from dwp.nn.noise import Noise, fixed_weight_sample, noise_of
from dwp.nn.precision import at_least_float32
from dwp.priors.base import KLEstimator

Loss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def cross_entropy(model: nn.Module, l2: float = 0.0) -> Loss:
    """Return the loss: mean cross-entropy in nats, plus `l2` times the squared norm of the kernels."""

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nll = functional.cross_entropy(at_least_float32(model(images)), labels)
        return (nll + l2 * squared_norm(model) if l2 else nll), {"train_nll": nll}

    return loss


def elbo(
    model: nn.Module, examples: int, estimator: KLEstimator = KLEstimator(), weight: float | Tensor = 1.0
) -> Loss:
    """Return the loss: the negative ELBO per example, mean NLL + weight · KL / examples, in nats.

    The KL is summed over all weights and `examples` is the size of the training set, so that the loss
    times `examples` is the paper's bound for any batch size (paper, eq. 9).

    Args:
        model: a Bayesian model that maps images to logits.
        examples: size of the training set.
        estimator: how to estimate the KL, see `Prior.kl`.
        weight: of the KL; below 1 the posterior is tempered. A tensor may change in training, in place.
    """

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nll = functional.cross_entropy(at_least_float32(model(images)), labels)
        kl = layers.kl(model, estimator)
        scaled = kl if weight == 1 else weight * kl
        return nll + scaled / examples, {"train_nll": nll, "kl": kl}

    return loss


def acceptance(model: nn.Module, examples: int, weight: float = 1.0, samples: int = 4) -> Loss:
    """Return a loss whose minimiser proposes weights that the Metropolis-Hastings algorithm accepts.

    A proposal w' ~ q is accepted at w with probability min(1, ξ), ξ = p(w'|D)·q(w) / (p(w|D)·q(w')), in
    which the evidence cancels (Neklyudov et al. 2018). The Gaussian posterior q maximises E log ξ with
    w ~ p(w|D), which is -KL(q || p) - KL(p || q) = -J and bounds the acceptance rate from below by
    1 - √(J/2). The loss is that of `elbo` plus -log q(w) of one weight w, without the terms of J that do
    not depend on q.

    Each step draws some weights from q; w is the last state of a Metropolis-Hastings chain that starts at
    the first of them and to which the others are proposed. It has the distribution p only if q does, but
    then the gradient is zero in expectation.

    Args:
        model: a Bayesian model without scales that maps images to logits.
        examples: size of the training set.
        weight: of log q(w) - log p(w), as for the KL of `elbo`; above 0.
        samples: weights drawn in each step.

    Returns:
        The loss, in nats per example. Its terms are train_nll, kl (an estimate from the samples) and
        acceptance, the mean acceptance probability of the step's proposals.

    Raises:
        InputError: there are no Bayesian layers, a posterior is not Gaussian, a layer has scales, the density
            of a prior is missing or only a bound, or `weight` or `samples` is too small.
    """
    if weight <= 0 or samples < 2:
        raise InputError(
            f"acceptance: weight is {weight} and samples {samples}; "
            "expected a positive weight and 2 samples or more"
        )
    gaussians = [(layer, _gaussian(layer)) for layer in layers.bayesian_layers(model)]
    if not gaussians:
        raise InputError(
            f"acceptance: a {type(model).__name__} without Bayesian layers; convert it by make_bayesian first"
        )

    def log_ratio(weights: list[Tensor]) -> Tensor:
        """Return log q(w) - log p(w) of the weights of all layers."""
        pairs = zip(gaussians, weights, strict=True)
        return torch.stack([posterior.log_ratio(w) for (_, posterior), w in pairs]).sum()

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        draws, losses = [], []
        with noise_of(model, Noise.WEIGHTS):
            for _ in range(samples):
                with fixed_weight_sample(model):
                    losses.append(functional.cross_entropy(at_least_float32(model(images)), labels))
                    draws.append([layer.weight for layer, _ in gaussians])
        nll, ratios = torch.stack(losses), torch.stack([log_ratio(weights) for weights in draws])
        log_densities = -(nll * examples / weight + ratios).detach()
        last, probability = independent_chain(log_densities)
        # Prior and likelihood at w have no gradient, so that -log q(w) remains.
        covered = log_ratio([w.detach() for w in draws[last]])
        value = nll.mean() + weight / examples * (ratios.mean() - covered)
        return value, {"train_nll": nll.mean(), "kl": ratios.mean(), "acceptance": probability}

    return loss


def independent_chain(log_densities: Tensor) -> tuple[int, Tensor]:
    """Run a Metropolis-Hastings chain over samples of a proposal; it starts at the first of them.

    Args:
        log_densities: log density of the target relative to the proposal, [n], up to a constant, in nats.

    Returns:
        The index of the last state, and the mean acceptance probability of the n - 1 proposals.
    """
    values, state = log_densities.cpu().double(), 0
    thresholds, probabilities = torch.rand(len(values)), []
    for i in range(1, len(values)):
        probability = (values[i] - values[state]).clamp_max(0).exp()
        probabilities.append(probability)
        if thresholds[i] < probability:
            state = i
    return state, torch.stack(probabilities).mean()


def _gaussian(layer: layers.BayesianLayer) -> Factorised:
    """Return the posterior of a layer; refuse one without an exact density relative to its prior."""
    posterior, prior = layer.posterior, layer.posterior.prior
    name = type(posterior).__name__
    if not isinstance(posterior, Factorised):
        raise InputError(f"acceptance: posterior {name} has no density; use additive, or the ELBO")
    if layer.scales is not None:
        raise InputError("acceptance: the layers have scales; leave them out, or use the ELBO")
    if not prior.settings_class.has_density or not prior.exact:
        what = "a bound on its density" if prior.settings_class.has_density else "no density"
        raise InputError(f"acceptance: prior {prior.kind} has {what}; use one with an exact density")
    return posterior


def penalised(loss: Loss, layer: nn.Linear, precision: float) -> Loss:
    """Return the loss plus precision / 2 · ‖W‖² of a linear layer, a Gaussian prior per example."""

    def sum_of_both(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        value, terms = loss(*batch)
        return value + 0.5 * precision * layer.weight.square().sum(), terms

    return sum_of_both


def together(losses: Sequence[Loss]) -> Loss:
    """Return the summed loss of independent networks trained together, and the means of its terms."""

    def loss(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        values, terms = zip(*(one(*batch) for one in losses), strict=True)
        return sum(values), {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}

    return loss
