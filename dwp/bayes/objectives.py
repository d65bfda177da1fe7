"""Training objectives of ordinary and Bayesian classifiers, per example.

Each function returns a loss: a function from a minibatch to a scalar and its terms, see `training.fit`.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes import layers
from dwp.nn.convnet import squared_norm
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
