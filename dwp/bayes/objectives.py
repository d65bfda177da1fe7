"""What is minimised: losses of ordinary and of Bayesian classifiers, per example.

Each builds a function of a minibatch that returns the scalar to minimise and its
terms, as `training.fit` takes it.
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
    """Return mean cross-entropy in nats, plus `l2` times the squared norm of the convolution kernels."""

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nll = functional.cross_entropy(at_least_float32(model(images)), labels)
        return (nll + l2 * squared_norm(model) if l2 else nll), {"train_nll": nll}

    return loss


def elbo(model: nn.Module, examples: int, estimator: KLEstimator = KLEstimator()) -> Loss:
    """Return the negative ELBO per example: mean NLL + KL / examples, in nats.

    The KL is a sum over all weights and `examples` counts the whole training set, so
    that this times `examples` is the paper's bound, whatever the batch (paper, eq. 9).
    It is estimated as `estimator` says, see `Prior.kl`.
    """

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nll = functional.cross_entropy(at_least_float32(model(images)), labels)
        kl = layers.kl(model, estimator)
        return nll + kl / examples, {"train_nll": nll, "kl": kl}

    return loss


def together(losses: Sequence[Loss]) -> Loss:
    """Return the loss of networks that are trained side by side, each as if alone; terms are their means."""

    def loss(*batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        values, terms = zip(*(one(*batch) for one in losses), strict=True)
        return sum(values), {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}

    return loss
