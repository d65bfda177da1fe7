"""Priors with the structure of filters, without learning: the structured Gaussian and Gabor filters."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from prior_helpers import posterior, seeded
from torch.distributions import MultivariateNormal, kl_divergence

from dwp.bayes.coordinates import of_prior
from dwp.errors import InputError
from dwp.priors.gabor import Gabor
from dwp.priors.structured_gaussian import StructuredGaussian


def covariance(k, width, noise, inputs):
    """Return the covariance matrix by the formula, one pair of weights at a time."""
    points = [(i - (k - 1) / 2, j - (k - 1) / 2) for i in range(k) for j in range(k)]

    def bump(x, y):
        return math.exp(-(x * x + y * y) / (2 * (width * k) ** 2))

    matrix = np.array(
        [
            [
                math.sqrt(bump(*p) * bump(*q)) * bump(p[0] - q[0], p[1] - q[1]) - bump(*p) * bump(*q) / 2
                for q in points
            ]
            for p in points
        ]
    )
    matrix = (1 - noise) * matrix / np.trace(matrix) + noise * np.eye(k * k) / (k * k)
    return 2 / inputs * matrix


@pytest.mark.parametrize(
    ("k", "width", "noise", "inputs"), [(1, 0.3, 0.1, 1), (3, 0.2, 0.05, 4), (5, 0.5, 0.5, 1)]
)
def test_the_covariance_is_the_formula(k, width, noise, inputs):
    prior = StructuredGaussian(k, inputs=inputs, width=width, noise=noise)
    found = (prior.factor @ prior.factor.T).double()
    expected = torch.from_numpy(covariance(k, width, noise, inputs))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert found.trace().item() == pytest.approx(2 / inputs, rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("width", [0.05, 0.1, 0.3, 1, 10])
def test_the_covariance_is_positive_definite_without_noise(k, width):
    assert np.linalg.eigvalsh(covariance(k, width, 0, 1)).min() > -1e-12


def test_density_samples_and_kl_are_those_of_the_gaussian():
    prior, q = StructuredGaussian(3, inputs=8).double(), posterior()
    reference = MultivariateNormal(torch.zeros(9).double(), prior.factor @ prior.factor.T)
    torch.testing.assert_close(prior.log_prob(q.mean), reference.log_prob(q.mean.flatten(1)))
    dense = MultivariateNormal(q.mean.flatten(1), q.log_variance.flatten(1).exp().diag_embed())
    torch.testing.assert_close(prior.kl(q), kl_divergence(dense, reference).sum())
    draws = prior.sample(20_000, seeded()).flatten(1)
    white = torch.linalg.solve_triangular(prior.factor, draws.T, upper=False)
    assert all(scipy.stats.kstest(row.numpy(), "norm").pvalue > 1e-3 for row in white)


def test_its_coordinates_are_exact():
    prior = StructuredGaussian(3).double()
    coordinates = of_prior(prior, torch.zeros(1, dtype=torch.float64))
    x = torch.randn(5, 9, generator=seeded(), dtype=torch.float64)
    ratios = [coordinates.log_ratio(one[None]).item() for one in x]
    assert coordinates.exact
    assert max(ratios) - min(ratios) < 1e-9


@pytest.mark.parametrize("cls", [StructuredGaussian, Gabor])
def test_there_is_nothing_to_fit(cls):
    w = torch.zeros(4, 1, 3, 3)
    with pytest.raises(InputError, match=f"{cls.kind} has nothing to fit"):
        cls.fit(w, w, {})


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("blobs", [0.0, 1.0])
def test_gabor_filters_have_the_norms_of_white_noise(k, blobs):
    prior = Gabor(k, inputs=5, blobs=blobs)
    w = prior.sample(5000, seeded())
    assert w.isfinite().all()
    squares = (w.flatten(1).square().sum(1) * k * k * 5 / 2).numpy()
    assert scipy.stats.kstest(squares, scipy.stats.chi2(k * k).cdf).pvalue > 1e-3
    # Phases, angles and signs are random, so that the mean vanishes.
    assert (w.mean(0) / w.std(0) * math.sqrt(5000)).abs().max() < 4.5


def test_differences_of_gaussians_are_symmetric_and_gabor_filters_are_not():
    blobs, filters = (Gabor(5, blobs=fraction).sample(500, seeded()) for fraction in (1, 0))
    for turned in (blobs.flip(2), blobs.flip(3), blobs.mT):
        torch.testing.assert_close(turned, blobs, atol=1e-6, rtol=1e-5)
    assert (
        (filters - filters.mT).flatten(1).norm(dim=1) > 0.1 * filters.flatten(1).norm(dim=1)
    ).float().mean() > 0.8


def test_the_fraction_of_differences_of_gaussians():
    w = Gabor(5, blobs=0.3).sample(4000, seeded())
    symmetric = ((w - w.mT).flatten(1).norm(dim=1) < 1e-5) & ((w - w.flip(3)).flatten(1).norm(dim=1) < 1e-5)
    assert symmetric.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))


def test_gabor_needs_more_than_one_weight():
    with pytest.raises(InputError, match="kernel size 1 cannot be built; it takes sizes from 2"):
        Gabor(1)
