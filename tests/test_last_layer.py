"""Logistic regression on frozen features: stationarity, invariances, and the choice of the scale."""

import math

import pytest
import torch
from torch.nn import functional

from dwp.bayes import last_layer


def blobs(n, d, classes, spread, seed=0):
    """Return features [n, d] around one centre for each class, and labels [n]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=generator, dtype=torch.double)
    labels = torch.arange(n) % classes
    return centres[labels] + spread * torch.randn(n, d, generator=generator, dtype=torch.double), labels


def loss(fitted, features, labels):
    """Return the negative log joint density without constants, in nats."""
    nll = functional.cross_entropy(features @ fitted[0].T + fitted[1], labels, reduction="sum")
    return nll + 0.5 * fitted[2] * fitted[0].square().sum()


@pytest.mark.parametrize(("n", "d"), [(30, 5), (12, 200)])
def test_the_solution_is_the_posterior_mode(n, d):
    features, labels = blobs(n, d, 4, 1.0)
    weight, bias, scale, precision = last_layer.fit(features, labels, 4, scale=2.0)
    squared = (features - features.mean(0)).square().sum(1).mean().item()
    assert scale == 2.0
    assert precision == pytest.approx(squared / 4.0)
    weight.requires_grad_(), bias.requires_grad_()
    gradients = torch.autograd.grad(loss((weight, bias, precision), features, labels), (weight, bias))
    size = squared**0.5
    assert all(gradient.abs().max() < 2e-3 * size for gradient in gradients)


def test_the_logits_do_not_depend_on_the_units_or_the_basis_of_the_features():
    features, labels = blobs(20, 6, 3, 1.0)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double))[0]
    other = 100 * features @ rotation + 7
    logits = []
    for x in (features, other):
        found = last_layer.fit(x, labels, 3, scale=3.0)
        logits.append((x @ found.weight.T + found.bias).softmax(1))
    assert torch.allclose(*logits, atol=1e-4)


def test_cross_validation_prefers_small_scales_where_features_say_nothing():
    informative, labels = blobs(60, 10, 3, 0.3)
    noise = torch.randn(60, 10, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    assert last_layer.fit(noise, labels, 3).scale <= 1
    found = last_layer.fit(informative, labels, 3)
    assert found.scale >= 3
    fresh, truth = blobs(300, 10, 3, 0.3)
    assert ((fresh @ found.weight.T + found.bias).argmax(1) == truth).double().mean() > 0.99


def test_a_class_without_examples_is_never_predicted():
    features, labels = blobs(20, 4, 2, 1.0)
    found = last_layer.fit(features, labels * 2, 4, scale=1.0)
    probabilities = (features @ found.weight.T + found.bias).softmax(1)
    assert probabilities[:, [1, 3]].eq(0).all()
    assert probabilities.sum(1).allclose(torch.ones(20, dtype=torch.double))


def test_one_example_of_each_class_and_constant_features_are_accepted():
    features, labels = blobs(3, 4, 3, 1.0)
    assert math.isfinite(last_layer.fit(features, labels, 3).weight.abs().sum())
    constant = last_layer.fit(torch.ones(6, 4), torch.arange(6) % 3, 3)
    assert constant.weight.eq(0).all()
    assert constant.weight.dtype == torch.float32
