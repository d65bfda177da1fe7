"""The Gaussian and Student's t over kernels, against scipy, torch.distributions and known parameters."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.covariance
import torch
from prior_helpers import ERRORS, assert_mean, gaussian_kernels, posterior, seeded
from torch.distributions import MultivariateNormal, kl_divergence

from dwp.priors import student_t
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.gaussian import Gaussian
from dwp.priors.student_t import HIGHEST, LOWEST, StudentT

NU = 4.0
FLOOR = 1e-6


def known(cls, k=3, seed=0):
    """Return a prior in double precision with a given mean and full covariance (scale) matrix."""
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
    assert prior.kl(q, KLEstimator(3, 2)).item() == prior.kl(q).item()
    torch.manual_seed(0)
    for estimator in (KLEstimator(), KLEstimator(7, 3)):
        assert_mean([Prior.kl(prior, q, estimator) for _ in range(1000)], exact)


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


def heavy_tailed(k, freedom=2.5, power=1):
    """Scipy's t over k×k kernels of scale 0.1, correlated by exp(-(distance / 2)^power): 2 is smoother."""
    row, column = np.indices((k, k)).reshape(2, -1)
    distance = np.hypot(row[:, None] - row, column[:, None] - column)
    correlation = np.exp(-((distance / 2) ** power)) + 1e-3 * np.eye(k * k)
    return scipy.stats.multivariate_t(np.full(k * k, 0.02), 0.01 * correlation, df=freedom)


def as_kernels(x):
    k = math.isqrt(x.shape[1])
    return torch.from_numpy(x).view(-1, 1, k, k)


def test_gaussian_shrinks_as_ledoit_and_wolf_do():
    train, _ = gaussian_kernels(40, 0)
    train = train.double()
    expected = sklearn.covariance.LedoitWolf().fit(train.flatten(1).numpy())
    assert expected.shrinkage_ > 0.005, "few kernels are shrunk"
    prior = Gaussian(3).double()
    prior.maximise(train, strength=40 * expected.shrinkage_ / (1 - expected.shrinkage_))
    np.testing.assert_allclose(prior.mean.numpy(), expected.location_, atol=1e-12)
    np.testing.assert_allclose(matrix(prior).numpy(), expected.covariance_ + FLOOR * np.eye(9), atol=1e-10)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("freedom", [2.5, math.inf])
@pytest.mark.parametrize(("k", "n"), [(3, 100), (7, 20), (7, 531)])
def test_gaussian_is_as_likely_as_unshrunk_or_as_shrunk_by_ledoit_and_wolf(k, n, freedom, power):
    source = heavy_tailed(k, freedom, power)
    train, test = source.rvs(n, random_state=0), source.rvs(4000, random_state=1)
    _, (row,) = Gaussian.fit(as_kernels(train), as_kernels(test), {}, seed=0)
    for estimate in (sklearn.covariance.EmpiricalCovariance(), sklearn.covariance.LedoitWolf()):
        covariance = estimate.fit(train).covariance_ + FLOOR * np.eye(k * k)
        other = scipy.stats.multivariate_normal(train.mean(0), covariance).logpdf(test)
        # Tolerance for choosing the strength from so few kernels.
        assert row["value"] > other.mean() - 0.1


@pytest.mark.parametrize(("k", "n"), [(3, 300), (3, 3000), (7, 300), (7, 3000)])
def test_student_t_approaches_the_true_density_of_heavy_tails(k, n):
    truth = heavy_tailed(k)
    train, test = truth.rvs(n, random_state=0), truth.rvs(4000, random_state=1)
    prior, _ = StudentT.fit(as_kernels(train), as_kernels(train), {})
    missing = truth.logpdf(test) - prior.log_prob(as_kernels(test)).numpy()
    # In the limit p parameters cost p / 2n nats; here they may half as much again.
    parameters = k**2 * (k**2 + 1) / 2 + k**2 + 1
    assert missing.mean() < 1.5 * parameters / (2 * n) + ERRORS * scipy.stats.sem(missing)
    # Its standard error is about 0.25 at d = 9 and n = 300.
    assert prior.freedom.item() == pytest.approx(2.5, abs=0.6 if n == 300 else 0.2)


@pytest.mark.parametrize("cls", [Gaussian, StudentT])
def test_fits_do_not_depend_on_the_test_kernels_or_the_seed(cls):
    train = as_kernels(heavy_tailed(3).rvs(60, random_state=0))
    one, other = (cls.fit(train, test, {}, seed=seed)[0] for test, seed in ((train, 0), (train[:5], 1)))
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def objective(prior, w, strength):
    """Return the objective of a Student's t, from dense matrices and scipy's density."""
    x, sigma, d = w.flatten(1).numpy(), matrix(prior).numpy(), len(prior.mean)
    density = scipy.stats.multivariate_t(prior.mean.numpy(), sigma, df=prior.freedom.item())
    trace = np.trace(np.linalg.inv(sigma))
    unevenness = np.linalg.slogdet(sigma)[1] + d * math.log(trace / d)
    return density.logpdf(x).mean() - 0.5 * (strength / len(x) * unevenness + FLOOR * trace)


@pytest.mark.parametrize(
    ("k", "n", "strength"), [(3, 200, 0.01), (3, 20, 20.0), (5, 15, 30.0), (3, 200, 3000.0)]
)
def test_a_students_t_climbs_to_a_maximum_of_its_objective(k, n, strength, monkeypatch):
    w = as_kernels(heavy_tailed(k).rvs(n, random_state=0))
    prior = StudentT(k).double()
    values = []
    for steps in (1, 2, 3, 5, 10, 20, 1000):
        monkeypatch.setattr(student_t, "ITERATIONS", steps)
        prior.maximise(w, strength)
        values.append(objective(prior, w, strength))
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(values))
    # Neighbours in random directions, and in ν alone.
    best, state = values[-1], {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    generator = seeded()
    for direction in range(20):
        for name, tensor in state.items():
            noise = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
            noise = noise.tril() if name == "factor" else noise
            getattr(prior, name).copy_(tensor + 0.01 * tensor.abs().mean() * noise * (direction > 1))
        if direction < 2:
            prior.freedom.mul_((0.98, 1.02)[direction])
        assert objective(prior, w, strength) < best


def test_a_step_that_lowers_the_objective_is_an_error(monkeypatch):
    w = as_kernels(heavy_tailed(3).rvs(50, random_state=0))
    sizes = iter([1.0, 1.0, 3.0])
    monkeypatch.setattr(student_t, "_size", lambda *_: next(sizes))
    with pytest.raises(FloatingPointError, match="student_t: a step took the objective from"):
        StudentT(3).double().maximise(w, 1.0)


def test_a_fit_that_has_not_converged_says_so(monkeypatch, caplog):
    w = as_kernels(heavy_tailed(3).rvs(50, random_state=0))
    monkeypatch.setattr(student_t, "ITERATIONS", 2)
    StudentT(3).double().maximise(w, 1.0)
    assert "the fit to 50 kernels has not converged in 2 steps" in caplog.text


@pytest.mark.parametrize("cls", [Gaussian, StudentT])
@pytest.mark.parametrize("n", [2, 3, 20])
def test_units_of_large_kernels_do_not_matter(cls, n):
    train, test = (as_kernels(heavy_tailed(5).rvs(count, random_state=count)) for count in (n, 50))
    _, (small,) = cls.fit(100 * train, 100 * test, {})
    _, (large,) = cls.fit(1e8 * train, 1e8 * test, {})
    assert large["value"] == pytest.approx(small["value"] - 25 * math.log(1e6), abs=1e-3)


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
    [torch.ones(1, 1, 5, 5), torch.ones(30, 1, 5, 5)]
    + [torch.randn(n, 1, 5, 5, generator=seeded()) for n in (2, 3, 7)],
    ids=["one kernel", "equal kernels", "two kernels", "three kernels", "seven kernels"],
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
