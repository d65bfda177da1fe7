"""The Gaussian and Student's t over whole kernels: against scipy, torch.distributions, known parameters."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.covariance
import torch
from prior_helpers import ERRORS, assert_mean, gaussian_kernels, posterior, seeded
from torch.distributions import MultivariateNormal, kl_divergence

from dwp.priors import Bound, Prior
from dwp.priors.gaussian import VARIANCE_FLOOR, Gaussian
from dwp.priors.student_t import HIGHEST, LOWEST, StudentT

NU = 4.0


def known(cls, k=3, seed=0):
    """A prior in double precision with a mean and a full covariance (scale) matrix of its own."""
    prior = cls(k).double()
    generator = seeded(seed)
    prior.mean.copy_(torch.randn(k * k, generator=generator))
    root = torch.randn(k * k, k * k, generator=generator, dtype=torch.float64)
    prior.factor.copy_(torch.linalg.cholesky(root @ root.T / (k * k) + 0.1 * torch.eye(k * k)))
    if cls is StudentT:
        prior.freedom.fill_(NU)
    return prior


def matrix(prior):
    return prior.factor @ prior.factor.T


# Densities, samples, divergences


def test_densities_are_scipys():
    w = posterior().mean
    x = w.flatten(1).numpy()
    normal, student = known(Gaussian), known(StudentT)
    expected = scipy.stats.multivariate_normal(normal.mean.numpy(), matrix(normal).numpy()).logpdf(x)
    np.testing.assert_allclose(normal.log_prob(w).numpy(), expected, rtol=1e-10)
    expected = scipy.stats.multivariate_t(student.mean.numpy(), matrix(student).numpy(), df=NU).logpdf(x)
    np.testing.assert_allclose(student.log_prob(w).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("cls", [Gaussian, StudentT])
def test_samples_have_the_marginals_and_correlations(cls):
    prior = known(cls)
    draws = prior.sample(20_000, seeded()).flatten(1)
    # In any direction a sample is a scalar of the same family.
    directions = torch.randn(5, 9, generator=seeded(1), dtype=torch.float64)
    family = scipy.stats.norm() if cls is Gaussian else scipy.stats.t(NU)
    for direction in directions:
        scale = (direction @ matrix(prior) @ direction).sqrt()
        along = ((draws - prior.mean) @ direction / scale).numpy()
        assert scipy.stats.kstest(along, family.cdf).pvalue > 1e-3
    # Whitened weights share one scale for each kernel: of the t, large ones come together.
    white = torch.linalg.solve_triangular(prior.factor, (draws - prior.mean).T, upper=False).T
    together = scipy.stats.spearmanr(white[:, 0].abs(), white[:, 1].abs()).statistic
    assert (together > 0.1) == (cls is StudentT)
    # log_prob is the density of what is drawn: -E log p is the entropy, here by scipy's draws and density.
    if cls is StudentT:
        reference = scipy.stats.multivariate_t(prior.mean.numpy(), matrix(prior).numpy(), df=NU)
        entropy = -reference.logpdf(reference.rvs(20_000, random_state=0))
        error = entropy.std() / math.sqrt(20_000)
        assert_mean(-prior.log_prob(draws.view(-1, 1, 3, 3)), entropy.mean(), error)


def test_gaussian_kl_is_the_closed_form():
    prior, q = known(Gaussian), posterior()
    diagonal = q.log_variance.flatten(1).exp().diag_embed()
    exact = kl_divergence(
        MultivariateNormal(q.mean.flatten(1), diagonal), MultivariateNormal(prior.mean, matrix(prior))
    ).sum()
    assert prior.kl(q).item() == pytest.approx(exact.item(), rel=1e-10)
    assert prior.kl(q, Bound(3, 2)).item() == prior.kl(q).item()
    torch.manual_seed(0)
    for bound in (Bound(), Bound(7, 3)):
        assert_mean([Prior.kl(prior, q, bound) for _ in range(1000)], exact)


def test_student_t_approaches_the_gaussian():
    normal, student, q = known(Gaussian), known(StudentT), posterior()
    student.freedom.fill_(1e7)
    torch.testing.assert_close(student.log_prob(q.mean), normal.log_prob(q.mean), rtol=1e-4, atol=1e-4)


def test_autocast_does_not_touch_the_densities():
    w = posterior(dtype=torch.float32).mean
    for cls in (Gaussian, StudentT):
        prior = known(cls).float()
        expected = prior.log_prob(w)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(prior.log_prob(w), expected)


# Fits


def test_gaussian_fit_is_ledoit_and_wolfs():
    train, _ = gaussian_kernels(40, 0)
    prior, _ = Gaussian.fit(train.double(), train.double(), {})
    expected = sklearn.covariance.LedoitWolf().fit(train.flatten(1).double().numpy())
    np.testing.assert_allclose(prior.mean.numpy(), expected.location_, atol=1e-12)
    covariance = expected.covariance_ + VARIANCE_FLOOR * np.eye(9)
    np.testing.assert_allclose(matrix(prior).numpy(), covariance, atol=1e-10)
    assert expected.shrinkage_ > 0.005, "few kernels are shrunk"


@pytest.mark.parametrize("cls", [Gaussian, StudentT])
def test_fits_approach_the_negative_entropy(cls):
    train, entropy = gaussian_kernels(8000, 0)
    test, _ = gaussian_kernels(4000, 7)
    prior, rows = cls.fit(train, test, {})
    (row,) = rows
    assert (row["step"], row["metric"]) == (0, "log_prob")
    log_prob = prior.log_prob(test)
    assert row["value"] == pytest.approx(log_prob.mean().item(), rel=1e-5)
    # 54 parameters cost 54 / (2·8000) nats, the shrinkage a little more.
    assert abs(row["value"] + entropy) < ERRORS * log_prob.std().item() / math.sqrt(4000) + 0.02


@pytest.mark.parametrize("cls", [Gaussian, StudentT])
@pytest.mark.parametrize(
    "train",
    [torch.ones(1, 1, 5, 5), torch.ones(30, 1, 5, 5), torch.randn(2, 1, 5, 5, generator=seeded())],
    ids=["one kernel", "equal kernels", "two kernels"],
)
def test_few_or_equal_kernels_still_make_a_proper_density(cls, train):
    prior, (row,) = cls.fit(train, torch.randn(4, 1, 5, 5, generator=seeded(1)), {})
    assert math.isfinite(row["value"])
    assert bool(prior.sample(100, seeded()).isfinite().all())
    assert bool((prior.factor.diagonal() >= 0.99e-3).all())


def test_em_recovers_a_students_t():
    truth = known(StudentT)
    train = truth.sample(20_000, seeded())
    prior, _ = StudentT.fit(train, train[:10], {})
    # Standard errors at n = 20,000: about 0.09 of ν, 0.01 of the rest.
    assert prior.freedom.item() == pytest.approx(NU, abs=0.35)
    torch.testing.assert_close(prior.mean, truth.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(matrix(prior), matrix(truth), atol=0.1, rtol=0)
    # It is a maximum: above the truth, and above its neighbours in ν.
    best = prior.log_prob(train).mean()
    assert best > truth.log_prob(train).mean()
    for factor in (0.9, 1.1):
        prior.freedom.mul_(factor)
        assert prior.log_prob(train).mean() < best
        prior.freedom.div_(factor)


def test_degrees_of_freedom_stay_in_their_range():
    normal, _ = gaussian_kernels(5000, 0)
    assert StudentT.fit(normal, normal[:10], {})[0].freedom.item() > 50
    heavy = normal[:500] * torch.logspace(-6, 6, 500)[:, None, None, None]
    assert StudentT.fit(heavy, heavy[:10], {})[0].freedom.item() == LOWEST
    # On a sphere the tails are lighter than a Gaussian's.
    sphere = torch.randn(2000, 1, 3, 3, generator=seeded())
    sphere = sphere / sphere.flatten(1).norm(dim=1)[:, None, None, None]
    assert StudentT.fit(sphere, sphere[:10], {})[0].freedom.item() == HIGHEST
