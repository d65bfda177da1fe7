"""Hierarchical ARD: its KL by integration and Monte Carlo, its rate, its limits."""

import math

import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from prior_helpers import assert_mean, posterior

from dwp.errors import InputError
from dwp.priors.ard import ARD
from dwp.priors.base import KLEstimator, load_prior, save_prior
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.hierarchical_ard import HierarchicalARD, rate

SHAPES = pytest.mark.parametrize("shape", [0.2, 0.5, 3.0])


def half(q):
    return ((q.mean.square() + q.log_variance.exp()) / 2).log()


def parts(q, shape):
    """The means, deviations and posterior precisions of all weights, and the learned rate, as numbers."""
    b = rate(half(q), shape).exp().item()
    mean, deviation = q.mean.flatten().tolist(), (0.5 * q.log_variance).exp().flatten().tolist()
    taus = [
        scipy.stats.gamma(shape + 0.5, scale=1 / (b + (m**2 + s**2) / 2))
        for m, s in zip(mean, deviation, strict=True)
    ]
    return mean, deviation, taus, scipy.stats.gamma(shape, scale=1 / b)


@SHAPES
def test_the_kl_by_integration(shape):
    q = posterior(n=3, k=1)
    expected = 0.0
    *weights, hyper = parts(q, shape)
    for mean, deviation, tau in zip(*weights, strict=True):
        # E[log p(w|τ)] over q(w) is known, the rest is integrated over u = log τ.
        second = mean**2 + deviation**2
        entropy = scipy.stats.norm(mean, deviation).entropy()

        def integrand(u, tau=tau, second=second):
            t = math.exp(u)
            log_p = 0.5 * u - 0.5 * math.log(2 * math.pi) - 0.5 * t * second + hyper.logpdf(t)
            return tau.pdf(t) * t * (tau.logpdf(t) - log_p)

        expected += scipy.integrate.quad(integrand, -60, 12, limit=500, epsabs=1e-12)[0] - entropy
    assert HierarchicalARD(1, shape).kl(q).item() == pytest.approx(expected, rel=1e-7)


def test_the_kl_by_monte_carlo():
    q, shape, draws = posterior(n=4, k=1), 0.8, 100_000
    torch.manual_seed(0)
    mean, deviation = q.mean.flatten(), (0.5 * q.log_variance).exp().flatten()
    b = rate(half(q), shape).exp()
    normal = torch.distributions.Normal(mean, deviation)
    optimal = torch.distributions.Gamma(torch.full_like(mean, shape + 0.5), b + half(q).flatten().exp())
    hyper = torch.distributions.Gamma(torch.tensor(shape).double(), b)
    w, tau = normal.sample([draws]), optimal.sample([draws])
    log_p = torch.distributions.Normal(0.0 * mean, tau.rsqrt()).log_prob(w) + hyper.log_prob(tau)
    log_ratio = normal.log_prob(w) + optimal.log_prob(tau) - log_p
    assert_mean(log_ratio.sum(1), HierarchicalARD(1, shape).kl(q))


@SHAPES
def test_the_rate_minimises_the_kl(shape):
    q = posterior(n=30, k=3)
    logs = half(q)

    def cost(log_rate):
        at = torch.tensor(log_rate, dtype=torch.float64)
        return ((shape + 0.5) * torch.logaddexp(at, logs) - shape * at).sum().item()

    best = scipy.optimize.minimize_scalar(cost, bounds=(-20, 20), method="bounded", options={"xatol": 1e-10})
    assert rate(logs, shape).item() == pytest.approx(best.x, abs=1e-5)
    constant = 270 * (math.lgamma(shape) - math.lgamma(shape + 0.5) - 0.5) - 0.5 * q.log_variance.sum().item()
    assert HierarchicalARD(3, shape).kl(q).item() == pytest.approx(best.fun + constant, rel=1e-10)


def test_gradients_are_those_of_the_minimum():
    q = posterior(n=3, k=1)
    prior = HierarchicalARD(1, 0.5)
    assert torch.autograd.gradcheck(
        lambda mean, log_variance: prior.kl(GaussianPosterior(mean, log_variance)),
        (q.mean.requires_grad_(), q.log_variance.requires_grad_()),
    )


def test_a_small_shape_is_ard_up_to_a_constant():
    q, other = posterior(n=5, k=3, seed=1), posterior(n=5, k=3, seed=2)
    prior = HierarchicalARD(3, 1e-6)
    difference = prior.kl(q) - prior.kl(other)
    torch.testing.assert_close(difference, ARD(3).kl(q) - ARD(3).kl(other), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("log_variance", [-1e30, -200.0, 0.0, 200.0, 1e30])
@pytest.mark.parametrize("mean", [0.0, 1e-30, 1.0, 1e12])
def test_extremes_are_finite(mean, log_variance):
    tensors = [torch.full((2, 1, 1, 1), value, requires_grad=True) for value in (mean, log_variance)]
    value = HierarchicalARD(1).kl(GaussianPosterior(*tensors))
    gradients = torch.autograd.grad(value, tensors)
    assert all(number.isfinite().all() for number in (value, *gradients))


def test_it_has_no_density_keeps_its_settings_and_ignores_the_estimator(tmp_path):
    prior = HierarchicalARD(3, shape=1.5)
    with pytest.raises(InputError, match="hierarchical_ard has no density"):
        prior.log_prob(torch.zeros(1, 1, 3, 3))
    with pytest.raises(InputError, match="shape"):
        HierarchicalARD(3, shape=0.0)
    save_prior(prior, tmp_path / "prior.safetensors")
    q = posterior()
    assert torch.equal(load_prior(tmp_path / "prior.safetensors").kl(q, KLEstimator(subset=2)), prior.kl(q))
