"""Logistic regression on frozen features: the last layer of a classifier, solved instead of trained."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dwp.errors import extra

SCALES = tuple(10 ** (exponent / 4) for exponent in range(-2, 9))
"""Candidates for the scale of the logits: 0.3 to 100."""
FOLDS = 5
WITHOUT_FOLDS = 3.0
"""Scale where a class has a single example, so that there is nothing to cross-validate on."""


class LastLayer(NamedTuple):
    """A fitted linear classifier."""

    weight: Tensor
    """[classes, d]."""
    bias: Tensor
    """[classes]."""
    scale: float
    """Prior standard deviation of the logits of a typical image."""
    precision: float
    """Precision of the Gaussian prior of each weight, m / scale²."""


def fit(
    features: Tensor, labels: Tensor, classes: int, scale: float | None = None, *, versions: int = 1
) -> LastLayer:
    """Return the most probable weights of a linear classifier under a Gaussian prior.

    The weights have the prior N(0, scale²/m), where m is the mean squared norm of the centred features:
    the logits of a typical image then have the standard deviation `scale`, whatever the features' number
    and size. The bias has a flat prior. Since the posterior mode lies in the span of the features, the
    problem is solved in at most n dimensions.

    Args:
        features: [n, d], or [versions·n, d].
        labels: int64 [n] or [versions·n], of two classes at least.
        classes: number of classes.
        scale: None chooses it from `SCALES` by cross-validation over the n examples: the highest mean
            log-likelihood of the examples that are left out; `WITHOUT_FOLDS` if a class has only one.
        versions: number of versions of each example, such as augmented copies; the examples come first,
            then another version of each, in the same order. The log-likelihood of an example is the mean
            over its versions. Cross-validation leaves out all of them, and measures the first.

    Returns:
        The classifier, in the dtype and on the device of the features.

    Raises:
        InputError: scikit-learn is not installed.
    """
    with extra("workflow", "a classifier on frozen features"):
        from sklearn.linear_model import LogisticRegression

    x = features.detach().cpu().double()
    mean = x.mean(0)
    centred = x - mean
    unit = centred.square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    _, singular, basis = torch.linalg.svd(centred / unit, full_matrices=False)
    basis = basis[singular >= 1e-6 * singular.max()]
    inputs, targets = (centred @ basis.T / unit).numpy(), labels.cpu().numpy()

    def solve(rows: np.ndarray, value: float) -> Any:
        with warnings.catch_warnings():
            # Where it does not converge in `max_iter` steps, the scale is far too large.
            warnings.simplefilter("ignore")
            regression = LogisticRegression(C=value**2 / versions, max_iter=500, tol=1e-6)
            return regression.fit(inputs[rows], targets[rows])

    if scale is None:
        scale = _cross_validated(solve, inputs, targets, versions)
    solution = solve(np.arange(len(targets)), scale)
    # Classes without an example have no row in the solution.
    weight = torch.zeros(classes, len(basis), dtype=torch.double)
    bias = torch.full((classes,), -np.inf, dtype=torch.double)
    present = torch.from_numpy(solution.classes_)
    weight[present], bias[present] = map(torch.from_numpy, (solution.coef_, solution.intercept_))
    weight = weight @ basis / unit
    precision = (unit / scale).square().item()
    return LastLayer(weight.to(features), (bias - weight @ mean).to(features), scale, precision)


def _cross_validated(solve: Any, inputs: np.ndarray, targets: np.ndarray, versions: int) -> float:
    """Return the scale with the highest mean log-likelihood of held-out examples."""
    from sklearn.model_selection import StratifiedKFold

    count = len(targets) // versions
    firsts = np.arange(count)
    smallest = np.unique(targets[firsts], return_counts=True)[1].min()
    if smallest < 2:
        return WITHOUT_FOLDS
    folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=0)
    totals = dict.fromkeys(SCALES, 0.0)
    for rest, held_out in folds.split(firsts, targets[firsts]):
        rows = (rest + count * np.arange(versions)[:, None]).flatten()
        for scale in SCALES:
            solution = solve(rows, scale)
            log_probabilities = solution.predict_log_proba(inputs[held_out])
            columns = np.searchsorted(solution.classes_, targets[held_out])
            totals[scale] += log_probabilities[np.arange(len(held_out)), columns].sum()
    return max(totals, key=totals.__getitem__)
