"""Metrics of predicted class probabilities.

`probabilities` are [n, classes] (rows sum to one), `labels` [n] int64. Logarithms are
natural; scalar metrics are means over the examples, as floats. Metrics are computed on the
CPU in double precision, which not every device supports. Predictions that contain NaN or
negative numbers raise InputError.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dwp.errors import DivergedError, InputError, extra

ECE_BINS = 15


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the fraction of examples whose most probable class is the label."""
    return (_checked(probabilities).argmax(1) == labels.cpu()).double().mean().item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood, in nats; infinite where a label has probability 0."""
    return -_checked(probabilities).gather(1, labels.cpu()[:, None]).log().mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance to the one-hot label, summed over classes (0 to 2)."""
    one_hot = torch.nn.functional.one_hot(labels.cpu(), probabilities.shape[1])
    return (_checked(probabilities) - one_hot).square().sum(1).mean().item()


@dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram: its index, mean confidence, accuracy, and fraction of the examples."""

    index: int
    confidence: float
    accuracy: float
    fraction: float


def reliability(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> list[Bin]:
    """Return the reliability diagram with `bins` bins (a, b] of equal width in confidence.

    Confidence is the probability of the predicted class. Empty bins are omitted.
    """
    confidence, predicted = _checked(probabilities).max(1)
    correct = (predicted == labels.cpu()).double()
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    diagram = []
    for number in index.unique().tolist():
        inside = index == number
        means = [values.mean().item() for values in (confidence[inside], correct[inside], inside.double())]
        diagram.append(Bin(number, *means))
    return diagram


def ece(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error over the bins of `reliability` (Guo et al. 2017, eq. 3)."""
    diagram = reliability(probabilities, labels, bins)
    return sum(part.fraction * abs(part.accuracy - part.confidence) for part in diagram)


def predictive_entropy(members: Tensor) -> Tensor:
    """Return the entropy of the mean prediction of an ensemble [members, n, classes], [n], in nats."""
    return torch.special.entr(_checked(members).mean(0)).sum(1)


def mutual_information(members: Tensor) -> Tensor:
    """Return the mutual information of prediction and member for [members, n, classes], [n], in nats.

    It is the entropy of the mean prediction minus the mean entropy of the members: the uncertainty
    that more data would reduce.
    """
    return predictive_entropy(members) - torch.special.entr(_checked(members)).sum(2).mean(0)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the probability that a score of `outside` [m] exceeds one of `inside` [n]; ties count half.

    Raises:
        InputError: a score is NaN, or scikit-learn is not installed.
    """
    scores = torch.cat([inside, outside]).cpu().double()
    if scores.isnan().any():
        raise InputError(f"auroc: {int(scores.isnan().sum())} of {len(scores)} scores are NaN")
    with extra("workflow", "auroc"):
        from sklearn.metrics import roc_auc_score
    outlies = torch.arange(len(scores)) >= len(inside)
    return float(roc_auc_score(outlies.numpy(), scores.numpy()))


def summary(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, nll, brier and ece by name."""
    return {metric.__name__: metric(probabilities, labels) for metric in (accuracy, nll, brier, ece)}


def _checked(probabilities: Tensor) -> Tensor:
    """Check probabilities [..., n, classes]; return them on the CPU in double precision."""
    probabilities = probabilities.cpu().double()
    wrong = ~(probabilities >= 0).all(-1)
    if wrong.any():
        error = DivergedError if probabilities.isnan().any() else InputError
        raise error(
            f"predictions: {int(wrong.sum())} of {wrong.numel()} are no probabilities, the first "
            f"{probabilities[wrong][0].tolist()}; where they are NaN the network has diverged"
        )
    return probabilities
