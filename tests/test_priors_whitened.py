"""The VAE over whitened kernels: its density, samples and fit."""

import math

import pytest
import torch
from prior_helpers import seeded

from dwp.priors.gaussian import Gaussian
from dwp.priors.vae import VARIANCE_FLOOR
from dwp.priors.whitened_vae import WhitenedVAE

SCHEDULE = {"lr": 0.01, "steps": 20, "batch": 20, "precision": "float32"}
SIZE = 3


def correlated(n, seed):
    factor = 0.2 * torch.randn(SIZE**2, SIZE**2, generator=seeded(9), dtype=torch.double)
    w = 0.1 + torch.randn(n, SIZE**2, generator=seeded(seed), dtype=torch.double) @ factor.T
    return w.view(n, 1, SIZE, SIZE)


@pytest.fixture(scope="module")
def fitted():
    train, test = correlated(200, 1), correlated(50, 2)
    prior, rows = WhitenedVAE.fit(
        train, test, {"hidden": 4, "latent": 2, "schedule": SCHEDULE, "validation_fraction": 0.1}, seed=0
    )
    return prior, rows, train, test


def without_code(prior, variance):
    """Let the VAE of a prior ignore its code: p(w|z) = N(0, variance) and r(z|w) = p(z)."""
    for layer, offset in ((prior.vae.encoder[-1], 1 - VARIANCE_FLOOR), (prior.vae.decoder[-1], variance)):
        layer.weight.zero_()
        layer.bias.zero_()
        half = len(layer.bias) // 2
        layer.bias[half:] = math.log(math.expm1(offset))  # softplus⁻¹
    return prior


@torch.no_grad()
def test_without_a_code_it_is_the_gaussian(fitted):
    prior, _, train, test = fitted
    alone = WhitenedVAE(SIZE, hidden=4, latent=2).double().requires_grad_(False)
    alone.load_state_dict(prior.state_dict())
    without_code(alone, 1 - VARIANCE_FLOOR)
    gaussian = Gaussian.fit(train, test, {})[0]
    for samples in (1, 10):
        torch.testing.assert_close(alone.log_prob(test, samples), gaussian.log_prob(test))
    draws = alone.sample(200_000, seeded(3)).flatten(1)
    covariance = gaussian.factor @ gaussian.factor.T
    error = 4 * math.sqrt(2 / len(draws)) * covariance.diagonal().max().item()
    torch.testing.assert_close(torch.cov(draws.T), covariance, rtol=0, atol=error)
    torch.testing.assert_close(draws.mean(0), gaussian.mean, rtol=0, atol=error)


def test_whitened_kernels_are_coloured_back_and_have_no_correlation(fitted):
    prior, _, train, _ = fitted
    x = prior.whiten(train)
    torch.testing.assert_close(prior.colour(x), train)
    # Up to the shrinkage of the covariance.
    torch.testing.assert_close(
        torch.cov(x.flatten(1).T), torch.eye(SIZE**2, dtype=torch.double), rtol=0, atol=0.1
    )
    torch.testing.assert_close(prior.root, prior.root.T)


def test_the_recorded_bounds_are_those_of_the_kernels(fitted):
    prior, rows, _, test = fitted
    # The recorded values of an epoch are of the parameters then; the last is the fitted prior's or before it.
    found = {row["value"] for row in rows if row["metric"] == "elbo"}
    assert any(math.isclose(value, prior.evaluate(test)["elbo"], rel_tol=1e-9) for value in found)
    validation = [row["value"] for row in rows if row["metric"] == "validation_elbo"]
    # In nats of kernels: whitened ones have about twenty nats less.
    assert abs(validation[-1] - prior.evaluate(test)["elbo"]) < 5
