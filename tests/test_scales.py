"""Multiplicative scales of groups of weights: KL divergences and moments."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from bayesian_samples import ERRORS
from prior_helpers import assert_mean

from dwp.bayes import scales
from dwp.bayes.scales import Horseshoe

KINDS = pytest.mark.parametrize("kind", list(scales.KINDS))
DRAWS = 200_000


def noisy(kind, groups):
    """Scales in double precision with random posteriors."""
    torch.manual_seed(0)
    made = scales.KINDS[kind](groups).double()
    if kind == "horseshoe":
        made = Horseshoe(groups, global_scale=0.3).double()
    for name, parameter in made.named_parameters():
        parameter.data.normal_(std=0.5).add_(-1 if "variance" in name else 0.7)
        if kind == "horseshoe" and "mean" in name:
            parameter.data /= made.unit
    return made


# KL divergences


@pytest.mark.parametrize("log_alpha", [-8.0, -4.2, -4.1, -1.0, 0.0, 2.0, 5.0])
def test_the_kl_from_the_log_uniform_prior_by_integration(log_alpha):
    root = math.exp(-0.5 * log_alpha) / math.sqrt(2)
    expected = 2 * scipy.integrate.quad(scipy.special.dawsn, 0, root, limit=500, epsabs=1e-13)[0]
    found = scales.log_uniform_kl(torch.tensor(log_alpha, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    # From the definition: E log|z| - log σ, up to the constant at which it vanishes for α → ∞.
    deviation = math.exp(0.5 * log_alpha)
    density = scipy.stats.norm(1, deviation).pdf
    parts = [
        scipy.integrate.quad(lambda z: density(z) * math.log(abs(z)), *ends, limit=500)[0]
        for ends in ((-math.inf, -1e-3), (-1e-3, 0), (0, 1e-3), (1e-3, 1), (1, math.inf))
    ]
    constant = 0.5 * (math.log(2) + float(-scipy.special.digamma(1)))
    assert found.item() == pytest.approx(sum(parts) - math.log(deviation) + constant, abs=1e-6)


def test_the_kl_from_the_log_uniform_prior_by_monte_carlo():
    made = noisy("normal_jeffreys", 3)
    with torch.no_grad():
        z = made.sample([DRAWS, 3])
        constant = 0.5 * (math.log(2) + float(-scipy.special.digamma(1)))
        draws = (z.abs().log() - 0.5 * made.log_variance + constant).sum(1)
        assert_mean(draws, made.kl())


def test_the_kl_from_the_log_uniform_prior_at_extremes():
    log_alpha = torch.tensor([-80.0, -60.0, 60.0, 80.0], requires_grad=True)
    kl = scales.log_uniform_kl(log_alpha)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert log_alpha.grad.isfinite().all()
    assert kl[:2].tolist() == pytest.approx([40.635, 30.635], abs=1e-3)
    assert 0 < kl[3] < kl[2] < 1e-20


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_kls_of_log_normals_by_integration(scale):
    mean, log_variance = -0.4, -0.8
    q = scipy.stats.norm(mean, math.exp(log_variance / 2))
    gamma = scipy.stats.gamma(0.5, scale=scale)
    inverse = scipy.stats.invgamma(0.5)
    m, v = (torch.tensor(x, dtype=torch.float64) for x in (mean, log_variance))
    found = (scales.gamma_kl(m, v, math.log(scale)), scales.inverse_gamma_kl(m, v))
    for value, prior in zip(found, (gamma, inverse), strict=True):
        # In t = log x, of which the density is p(x)·x.
        expected = scipy.integrate.quad(
            lambda t, prior=prior: q.pdf(t) * (q.logpdf(t) - prior.logpdf(math.exp(t)) - t), -8, 8, limit=500
        )[0]
        assert value.item() == pytest.approx(expected, rel=1e-9)


def test_the_kl_of_the_horseshoe_by_monte_carlo():
    made = noisy("horseshoe", 3)
    with torch.no_grad():
        means = made.unit * torch.cat([made.global_mean, made.local_mean.flatten()])
        deviations = (0.5 * torch.cat([made.global_log_variance, made.local_log_variance.flatten()])).exp()
        q = torch.distributions.Normal(means, deviations)
        logs = q.sample([DRAWS])
        size = torch.tensor([0.3**2, *[1.0] * 7], dtype=torch.float64)
        gamma = torch.distributions.Gamma(torch.tensor(0.5, dtype=torch.float64), 1 / size).log_prob
        inverse = torch.distributions.InverseGamma(*torch.tensor([0.5, 1.0], dtype=torch.float64)).log_prob
        is_gamma = torch.tensor([True, False, True, True, True, False, False, False])
        prior = torch.where(is_gamma, gamma(logs.exp()), inverse(logs.exp())) + logs
        assert_mean((q.log_prob(logs) - prior).sum(1), made.kl())


def test_the_prior_of_the_horseshoe_is_half_cauchy():
    rng = np.random.default_rng(0)
    gamma, inverse = scipy.stats.gamma(0.5, scale=0.3**2), scipy.stats.invgamma(0.5)
    draws = np.sqrt(gamma.rvs(50_000, random_state=rng) * inverse.rvs(50_000, random_state=rng))
    assert scipy.stats.kstest(draws, scipy.stats.halfcauchy(scale=0.3).cdf).pvalue > 1e-3


def test_the_horseshoe_moves_at_the_learning_rates_of_weights():
    made = Horseshoe(5)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.005)
    for _ in range(1000):
        optimizer.zero_grad()
        made.kl().backward()
        optimizer.step()
    # Adam moves a parameter by at most 5 in these steps; the prior's scale, log τ, is 11.5 nats away.
    assert (made.log_moments()[0] < -8).all()


# Moments


@KINDS
def test_moments_of_scales(kind):
    made = noisy(kind, 4)
    with torch.no_grad():
        mean, variance = made.moments()
        draws = made.sample([DRAWS, 4])
        error = ERRORS * (variance / DRAWS).sqrt()
        assert ((draws.mean(0) - mean).abs() < error).all()
        squares = (draws - mean).square()
        assert ((squares.mean(0) - variance).abs() < ERRORS * squares.std(0) / DRAWS**0.5).all()


@KINDS
def test_scales_start_at_one(kind):
    made = scales.KINDS[kind](5).double()
    mean, variance = made.moments()
    torch.testing.assert_close(mean, torch.ones(5, dtype=torch.float64), rtol=1e-6, atol=0)
    assert (variance < 2e-4).all()
    assert torch.isfinite(made.kl())


def test_the_log_dropout_rate_of_a_log_normal_is_its_negative_log_mode():
    made = noisy("horseshoe", 1)
    location, local, shared = (x.item() for x in made.log_moments())
    z = scipy.stats.lognorm((local + shared) ** 0.5, scale=math.exp(location))
    mode = scipy.optimize.minimize_scalar(lambda x: -z.pdf(x), bounds=(1e-3, 5), method="bounded").x
    assert made.log_dropout().item() == pytest.approx(-math.log(mode), abs=1e-4)
