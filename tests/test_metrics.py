"""Metrics against scikit-learn, scipy and hand-computed values."""

import math
import sys

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dwp import metrics, predict
from dwp.bayes import last_layer_laplace
from dwp.errors import InputError


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(500, 5, dtype=torch.float64, generator=generator)).softmax(1)
    return probabilities, torch.randint(5, (500,), generator=generator)


def test_against_scikit_learn(predictions):
    p, y = predictions
    assert metrics.accuracy(p, y) == pytest.approx(sklearn.metrics.accuracy_score(y, p.argmax(1)), abs=1e-12)
    assert metrics.nll(p, y) == pytest.approx(sklearn.metrics.log_loss(y, p.numpy()), rel=1e-9)
    classes = [sklearn.metrics.brier_score_loss(y == c, p[:, c].numpy()) for c in range(5)]
    assert metrics.brier(p, y) == pytest.approx(sum(classes), rel=1e-9)


def test_entropy_against_scipy(predictions):
    p, _ = predictions
    assert metrics.predictive_entropy(p[None]).numpy() == pytest.approx(
        scipy.stats.entropy(p.numpy(), axis=1), rel=1e-9
    )
    sure = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    assert metrics.predictive_entropy(sure[None]).tolist() == pytest.approx([0, math.log(3)])


@pytest.mark.parametrize(
    ("confidences", "right", "bins", "expected"),
    [
        ([1.0, 1.0], [1, 1], 15, 0.0),  # confidence 1.0 has a bin
        ([1.0, 1.0], [1, 0], 15, 0.5),
        ([1.0, 0.95], [0, 1], 10, abs(1 - 1.95) / 2),  # both in the last bin: the gaps cancel
        ([0.95, 0.85], [0, 1], 10, (0.95 + 0.15) / 2),  # two bins: they do not
        ([0.5, 0.75], [1, 0], 4, (0.5 + 0.75) / 2),  # (0.25, 0.5] and (0.5, 0.75]: bins are closed above
        ([0.625, 0.75], [1, 0], 4, abs(1 - 1.375) / 2),
        ([0.6, 0.7, 0.9], [1, 0, 1], 1, abs(2 - 2.2) / 3),
    ],
)
def test_ece_by_hand(confidences, right, bins, expected):
    p = torch.tensor([[c, 1 - c] for c in confidences], dtype=torch.float64)
    labels = torch.tensor([0 if hit else 1 for hit in right])
    assert metrics.ece(p, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_ece_against_a_loop_over_bins(predictions):
    p, y = (tensor.numpy() for tensor in predictions)
    confidence, hit = p.max(1), p.argmax(1) == y
    expected = 0.0
    for low in np.arange(15) / 15:
        chosen = (confidence > low) & (confidence <= low + 1 / 15)
        if chosen.any():
            expected += chosen.mean() * abs(hit[chosen].mean() - confidence[chosen].mean())
    assert metrics.ece(*predictions) == pytest.approx(expected, rel=1e-9)


def test_probabilities_of_zero_and_one():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    wrong, right = torch.tensor([1, 0]), torch.tensor([0, 1])
    assert metrics.summary(p, right) == {"accuracy": 1, "nll": 0, "brier": 0, "ece": 0}
    assert metrics.summary(p, wrong) == {"accuracy": 0, "nll": math.inf, "brier": 2, "ece": 1}


@pytest.mark.parametrize("gap", [50.0, 87.0, 100.0, 200.0, 700.0])
def test_nll_of_sure_and_wrong_predictions(gap):
    model, x, y = nn.Linear(1, 2), torch.ones(3, 1), torch.tensor([1, 1, 1])
    nn.init.zeros_(model.weight)
    model.bias.data.copy_(torch.tensor([gap, 0.0]))
    assert metrics.nll(predict(model, x, samples=0)[0], y) == pytest.approx(gap, rel=1e-6)
    assert metrics.nll(predict(model, x, samples=0)[0], 1 - y) == pytest.approx(math.exp(-gap), abs=1e-12)


def test_nll_of_sure_and_wrong_predictions_under_laplace():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.tensor([[200.0, 0.0], [0.0, 200.0]]))
    images = torch.eye(2).repeat(10, 1)
    labels = torch.arange(2).repeat(10)
    members = last_layer_laplace.predict(model, images, labels, images, 3)
    assert members.shape == (3, 20, 2)
    torch.testing.assert_close(members.sum(2), torch.ones(3, 20, dtype=torch.float64))
    assert 110 < metrics.nll(members.mean(0), 1 - labels) < math.inf


@pytest.mark.parametrize("value", [math.nan, -0.1])
def test_predictions_that_are_no_probabilities_are_refused(value):
    p = torch.tensor([[0.5, 0.5], [value, 1.0], [0.3, 0.7]])
    y = torch.tensor([0, 0, 1])
    message = rf"predictions: 1 of 3 are no probabilities, the first \[{value:.1f}"
    for metric in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece, metrics.reliability):
        with pytest.raises(InputError, match=message):
            metric(p, y)
    for score in (metrics.predictive_entropy, metrics.mutual_information):
        with pytest.raises(InputError, match="predictions: 1 of 6 are no probabilities"):
            score(torch.stack([p, y[:, None].expand(3, 2)]))


def test_scores_that_are_nan_are_refused():
    with pytest.raises(InputError, match="auroc: 1 of 5 scores are NaN"):
        metrics.auroc(torch.tensor([0.1, math.nan]), torch.rand(3))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 10), st.integers(1, 40), st.integers(1, 30))
def test_ranges_and_order_of_examples(seed, classes, n, bins):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(n, classes, dtype=torch.float64, generator=generator).mul(5).softmax(1)
    y = torch.randint(classes, (n,), generator=generator)
    found = metrics.summary(p, y) | {"ece": metrics.ece(p, y, bins)}
    assert 0 <= found["accuracy"] <= 1
    assert 0 <= found["ece"] <= 1
    assert 0 <= found["brier"] <= 2
    assert found["nll"] >= 0
    order = torch.randperm(n, generator=generator)
    again = metrics.summary(p[order], y[order]) | {"ece": metrics.ece(p[order], y[order], bins)}
    assert again == pytest.approx(found, rel=1e-9, abs=1e-12)


# Ensembles


@pytest.fixture
def members():
    torch.manual_seed(3)
    return (2 * torch.randn(5, 40, 4, dtype=torch.float64)).softmax(2)


def test_mutual_information_is_the_mean_divergence_from_the_mean(members):
    mean = members.mean(0)
    expected = (members * (members / mean).log()).sum(2).mean(0)
    torch.testing.assert_close(metrics.mutual_information(members), expected)
    alike = members[:1].expand(5, -1, -1)
    assert metrics.mutual_information(alike).abs().max() < 1e-12


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_auroc_against_scikit_learn(digits):
    torch.manual_seed(4)
    inside, outside = torch.randn(50).round(decimals=digits), (torch.randn(30) + 0.7).round(decimals=digits)
    labels = [0] * 50 + [1] * 30
    expected = sklearn.metrics.roc_auc_score(labels, torch.cat([inside, outside]).numpy())
    assert metrics.auroc(inside, outside) == pytest.approx(expected, abs=1e-12)
    assert metrics.auroc(outside, inside) == pytest.approx(1 - expected, abs=1e-12)
    assert metrics.auroc(inside, inside) == 0.5


def test_the_calibration_error_is_that_of_the_bins_of_the_reliability_diagram(predictions, monkeypatch):
    p, y = predictions
    diagram = metrics.reliability(p, y)
    assert sum(part.fraction for part in diagram) == pytest.approx(1)
    assert all(part.index / 15 < part.confidence <= (part.index + 1) / 15 for part in diagram)
    monkeypatch.setattr(metrics, "reliability", lambda *_: diagram[:2])
    gaps = [part.fraction * abs(part.accuracy - part.confidence) for part in diagram[:2]]
    assert metrics.ece(p, y) == pytest.approx(sum(gaps))


def test_the_area_under_the_curve_needs_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(InputError, match=r"auroc: it needs sklearn; pip install 'dwp\[workflow\]'"):
        metrics.auroc(torch.rand(3), torch.rand(3))
