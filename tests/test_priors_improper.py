"""Improper priors: their KLs against integrals and numerical optimisation."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from prior_helpers import posterior

from dwp.errors import InputError
from dwp.priors.ard import ARD
from dwp.priors.base import KLEstimator
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal

# Log-uniform


def exact_log_uniform_kl(alpha):
    """Integrate KL(N(1, alpha) || log-uniform), with the constant that makes it vanish for alpha → ∞."""
    root = math.sqrt(alpha)
    zero = -1 / root

    def integrand(z):
        return scipy.stats.norm.pdf(z) * math.log(max(abs(1 + root * z), 1e-300))

    ends = [-12.0, zero, 12.0] if zero > -12 else [-12.0, 12.0]
    pieces = [scipy.integrate.quad(integrand, *piece, limit=500)[0] for piece in pairwise(ends)]
    return (np.euler_gamma + math.log(2)) / 2 - 0.5 * math.log(alpha) + sum(pieces)


def log_uniform_kl(approximation, alpha, mean=1.0, dtype=torch.float64):
    alpha, mean = (torch.tensor(value, dtype=dtype).view(1, 1, 1, 1) for value in (alpha, mean))
    return LogUniform(1, approximation=approximation).kl(
        GaussianPosterior(mean, alpha.log() + 2 * mean.abs().log())
    )


@pytest.mark.parametrize("alpha", np.logspace(-5, 5, 11))
def test_molchanov_against_the_integral(alpha):
    # Off by less than 0.01 nats over the whole range.
    assert log_uniform_kl("molchanov", alpha).item() == pytest.approx(exact_log_uniform_kl(alpha), abs=0.01)


@pytest.mark.parametrize("alpha", [1e-5, 1e-3, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_kingma_against_the_integral(alpha):
    # Without the constant; off by at most 0.041 nats (its worst at alpha = 1) for alpha <= 1.
    constant = (np.euler_gamma + math.log(2)) / 2
    expected = exact_log_uniform_kl(alpha) - constant
    assert log_uniform_kl("kingma", alpha).item() == pytest.approx(expected, abs=0.041)


@pytest.mark.parametrize("approximation", ["kingma", "molchanov"])
def test_log_uniform_depends_on_alpha_alone_and_sums(approximation):
    values = [log_uniform_kl(approximation, 0.3, mean).item() for mean in (1.0, -0.01, 25.0)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-8)
    prior, q = LogUniform(3, approximation=approximation), posterior()
    one_by_one = [prior.kl(q[torch.tensor([index])]).item() for index in range(len(q))]
    assert prior.kl(q).item() == pytest.approx(sum(one_by_one), rel=1e-10)
    assert prior.kl(q, KLEstimator(subset=3)).item() == prior.kl(q).item()


@pytest.mark.parametrize("alpha", [1e2, 1e4, 1e8, 1e12])
def test_molchanov_in_single_precision_does_not_round_a_small_kl_to_zero(alpha):
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    expected = k1 * scipy.special.expit(-k2 - k3 * math.log(alpha)) + 0.5 * math.log1p(1 / alpha)
    found = log_uniform_kl("molchanov", alpha, dtype=torch.float32).item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("approximation", ["kingma", "molchanov"])
@pytest.mark.parametrize("log_variance", [-80.0, -10.0, 0.0, 20.0, 80.0])
@pytest.mark.parametrize("mean", [0.0, 1e-20, 1e-4, 1.0, 1e3])
def test_log_uniform_gradient_at_extremes(approximation, log_variance, mean):
    mean = torch.full((1, 1, 1, 1), mean, requires_grad=True)
    log_variance = torch.full((1, 1, 1, 1), log_variance, requires_grad=True)
    value = LogUniform(1, approximation=approximation).kl(GaussianPosterior(mean, log_variance))
    value.backward()
    assert all(math.isfinite(number.item()) for number in (value, mean.grad, log_variance.grad))


def test_log_uniform_refusals():
    with pytest.raises(InputError, match="'exact' is not known; use one of kingma, molchanov"):
        LogUniform(3, approximation="exact")
    with pytest.raises(InputError, match="log_uniform cannot be sampled from"):
        LogUniform(3).sample(2)
    with pytest.raises(InputError, match="log_uniform has no density"):
        LogUniform(3).log_prob(torch.zeros(1, 1, 3, 3))
    with pytest.raises(InputError, match="log_uniform has nothing to fit"):
        LogUniform.fit(torch.zeros(1), torch.zeros(1), {})


# Automatic relevance determination


def test_ard_is_the_least_kl_over_the_priors_variance():
    q = posterior(n=3)

    def gaussian_kl(log_scale, mean, variance):
        return 0.5 * ((variance + mean**2) / math.exp(log_scale) - 1 + log_scale - math.log(variance))

    variances = q.log_variance.exp().flatten().tolist()
    least = sum(
        scipy.optimize.minimize_scalar(
            gaussian_kl, args=(mean, variance), bounds=(-30, 30), method="bounded", options={"xatol": 1e-9}
        ).fun
        for mean, variance in zip(q.mean.flatten().tolist(), variances, strict=True)
    )
    assert ARD(3).kl(q).item() == pytest.approx(least, rel=1e-9)
    assert ARD(3).kl(q, KLEstimator(subset=1)).item() == ARD(3).kl(q).item()


@pytest.mark.parametrize("log_variance", [-60.0, -20.0, 0.0, 20.0])
def test_ard_in_single_precision_from_tiny_to_huge_ratios(log_variance):
    # The closed form in double precision, of the numbers as single precision holds them.
    ratios = torch.logspace(-12, 12, 97, dtype=torch.float64) * math.exp(log_variance / 2)
    mean = torch.cat([ratios, -ratios]).float().view(-1, 1, 1, 1).requires_grad_()
    log_variance = torch.full_like(mean, log_variance).requires_grad_()
    squares = mean.detach().double().square() * (-log_variance.detach().double()).exp()
    expected = (
        0.5 * squares.log1p(),
        squares / (1 + squares) / mean.detach().double(),
        -0.5 * squares / (1 + squares),
    )
    values = torch.stack(
        [ARD(1).kl(GaussianPosterior(*pair)) for pair in zip(mean, log_variance, strict=True)]
    )
    found = (values.view_as(mean), *torch.autograd.grad(values.sum(), (mean, log_variance)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-37)


def test_ard_in_double_precision_is_the_closed_form():
    mean = torch.logspace(-100, 100, 401, dtype=torch.float64).view(-1, 1, 1, 1)
    kl = [ARD(1).kl(GaussianPosterior(one[None], torch.zeros_like(one[None]))).item() for one in mean]
    np.testing.assert_allclose(kl, 0.5 * np.log1p(mean.flatten().numpy() ** 2), rtol=1e-12)


@pytest.mark.parametrize("log_variance", [-1e30, -1000.0, -200.0, 0.0, 200.0, 1e30])
@pytest.mark.parametrize("mean", [0.0, 1e-30, 1e-12, 1.0, 1e12])
def test_ard_at_extremes_is_finite(mean, log_variance):
    tensors = [torch.full((1, 1, 1, 1), value, requires_grad=True) for value in (mean, log_variance)]
    value = ARD(1).kl(GaussianPosterior(*tensors))
    gradients = torch.autograd.grad(value, tensors)
    assert all(math.isfinite(number.item()) for number in (value, *gradients))
    assert mean != 0 or all(number.item() == 0 for number in (value, *gradients))


def test_ard_ignores_weights_at_zero():
    q = GaussianPosterior(torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), -100.0))
    assert ARD(3).kl(q).item() == 0


def test_ard_has_no_density_and_no_samples():
    with pytest.raises(InputError, match="ard cannot be sampled from"):
        ARD(3).sample(2)
    with pytest.raises(InputError, match="ard has no density"):
        ARD(3).log_prob(torch.zeros(1, 1, 3, 3))


def test_a_scale_that_is_not_above_zero_is_refused():
    with pytest.raises(InputError, match="standard_normal: scale is -1; expected a number above 0"):
        StandardNormal(3, scale=-1)
