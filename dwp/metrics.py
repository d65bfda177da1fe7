"""Metrics of predicted class probabilities.

`probabilities` are [n, classes] (rows sum to one), `labels` [n] int64. All logs
are natural; every function returns a mean over the examples, as a float. Sums are in
double precision, which not every device has, so they are made on the CPU.
"""

import torch
from torch import Tensor

ECE_BINS = 15


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the fraction of examples whose most probable class is the label."""
    return (probabilities.argmax(1) == labels).cpu().double().mean().item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood, in nats."""
    chosen = probabilities.cpu().double().gather(1, labels.cpu()[:, None])
    return -chosen.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance to the one-hot label, summed over classes (0 to 2)."""
    one_hot = torch.nn.functional.one_hot(labels.cpu(), probabilities.shape[1])
    return (probabilities.cpu().double() - one_hot).square().sum(1).mean().item()


def ece(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error over `bins` equal bins (a, b] of confidence.

    Confidence 1.0 falls in the last bin (Guo et al. 2017, eq. 3).
    """
    confidence, predicted = probabilities.cpu().double().max(1)
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, index, (predicted == labels.cpu()).double() - confidence)
    return (gap.abs().sum() / len(labels)).item()


def reliability(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> dict[str, float]:
    """Return the reliability diagram over the bins of `ece`.

    For each bin b that is not empty `reliability/<b>/confidence` and `/accuracy`, means
    over its examples, and `/fraction`, its share of all examples.
    """
    confidence, predicted = probabilities.cpu().double().max(1)
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    found = {}
    for number in index.unique().tolist():
        inside = index == number
        found[f"reliability/{number}/confidence"] = confidence[inside].mean().item()
        found[f"reliability/{number}/accuracy"] = (predicted == labels.cpu())[inside].double().mean().item()
        found[f"reliability/{number}/fraction"] = inside.double().mean().item()
    return found


def predictive_entropy(members: Tensor) -> Tensor:
    """Return the entropy of the mean prediction of an ensemble [members, n, classes], [n], in nats."""
    return torch.special.entr(members.cpu().double().mean(0)).sum(1)


def mutual_information(members: Tensor) -> Tensor:
    """Return what the members [members, n, classes] disagree about, [n], in nats.

    The entropy of their mean less the mean of their entropies: what more data would remove.
    """
    return predictive_entropy(members) - torch.special.entr(members.cpu().double()).sum(2).mean(0)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the probability that a score is higher outside [m] than inside [n], ties counted half."""
    scores = torch.cat([inside, outside]).cpu().double()
    _, index, counts = scores.unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[index]
    wins = ranks[len(inside) :].sum() - len(outside) * (len(outside) + 1) / 2
    return (wins / (len(inside) * len(outside))).item()


def summary(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, nll, brier and ece by name."""
    return {metric.__name__: metric(probabilities, labels) for metric in (accuracy, nll, brier, ece)}
