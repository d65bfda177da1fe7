"""Metrics of predicted class probabilities.

`probabilities` are [n, classes] (rows sum to one), `labels` [n] int64. All logs
are natural; every function returns a mean over the examples, as a float.
"""

import torch
from torch import Tensor

ECE_BINS = 15


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the fraction of examples whose most probable class is the label."""
    return (probabilities.argmax(1) == labels).double().mean().item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood, in nats."""
    chosen = probabilities.double().gather(1, labels[:, None])
    return -chosen.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance to the one-hot label, summed over classes (0 to 2)."""
    one_hot = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return (probabilities.double() - one_hot).square().sum(1).mean().item()


def ece(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error over `bins` equal bins (a, b] of confidence.

    Confidence 1.0 falls in the last bin (Guo et al. 2017, eq. 3).
    """
    confidence, predicted = probabilities.double().max(1)
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=labels.device)
    gap.index_add_(0, index, (predicted == labels).double() - confidence)
    return (gap.abs().sum() / len(labels)).item()


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of each prediction, [n], in nats."""
    return torch.special.entr(probabilities.double()).sum(1)


def summary(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, nll, brier and ece by name."""
    return {metric.__name__: metric(probabilities, labels) for metric in (accuracy, nll, brier, ece)}
