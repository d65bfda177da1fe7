"""Priors: every kind's files, samples and extremes; the standard normal; the registry."""

import functools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from prior_helpers import assert_mean, posterior, seeded
from prior_kinds import FITTED, PAID, SAMPLED, make
from torch.distributions import Normal, kl_divergence

from dwp.errors import InputError
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.empirical import Empirical
from dwp.priors.standard_normal import StandardNormal

# Posterior


def test_entropy_and_alpha():
    q = posterior()
    scale = (q.log_variance / 2).exp()
    assert q.entropy().item() == pytest.approx(Normal(q.mean, scale).entropy().sum().item(), rel=1e-12)
    torch.testing.assert_close(q.log_alpha().exp(), scale**2 / q.mean**2, rtol=1e-9, atol=0)
    assert len(q) == 20
    assert torch.equal(q[torch.tensor([3, 1])].mean, q.mean[[3, 1]])


def test_samples_of_the_posterior():
    torch.manual_seed(0)
    q = GaussianPosterior(torch.full((20_000, 1, 1, 1), 0.3), torch.full((20_000, 1, 1, 1), math.log(4.0)))
    assert scipy.stats.kstest(q.rsample().flatten().numpy(), "norm", (0.3, 2)).pvalue > 1e-3


# Standard normal


@pytest.mark.parametrize("scale", [1.0, 0.05, 7.0])
def test_standard_normal_density_and_samples(scale):
    prior = StandardNormal(3, scale=scale)
    w = posterior().mean
    expected = scipy.stats.norm(scale=scale).logpdf(w.numpy()).sum((1, 2, 3))
    np.testing.assert_allclose(prior.log_prob(w).numpy(), expected, rtol=1e-12)
    draws = prior.sample(1000, seeded())
    assert draws.shape == (1000, 1, 3, 3)
    assert scipy.stats.kstest(draws.flatten().numpy(), "norm", (0, scale)).pvalue > 1e-3
    assert torch.equal(draws, prior.sample(1000, seeded()))


@pytest.mark.parametrize("scale", [1.0, 0.2, 3.0])
def test_standard_normal_kl(scale):
    prior, q = StandardNormal(3, scale=scale), posterior()
    exact = kl_divergence(
        Normal(q.mean, (q.log_variance / 2).exp()), Normal(0.0, torch.tensor(scale, dtype=torch.float64))
    )
    assert prior.kl(q).item() == pytest.approx(exact.sum().item(), rel=1e-10)
    torch.manual_seed(0)
    for estimator in (
        KLEstimator(),
        KLEstimator(7),
        KLEstimator(1),
        KLEstimator(20),
        KLEstimator(99),
        KLEstimator(None, 3),
        KLEstimator(7, 3),
    ):
        assert_mean([Prior.kl(prior, q, estimator) for _ in range(400)], exact.sum())
    spread = [
        torch.stack([Prior.kl(prior, q, KLEstimator(7, samples)) for _ in range(300)]).std()
        for samples in (1, 30)
    ]
    assert spread[1] < spread[0]


# Empirical


def test_empirical_draws_are_kernels_equally_often():
    kernels = torch.randn(12, 1, 3, 3, generator=seeded(5))
    prior, rows = Empirical.fit(kernels, kernels[:2], {}, seed=0)
    assert rows == []
    draws = prior.sample(6000, seeded())
    counts = np.array([(draws == kernel).flatten(1).all(1).sum().item() for kernel in kernels])
    assert counts.sum() == 6000
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    with pytest.raises(InputError, match="empirical has no density"):
        prior.kl(posterior())


# Every kind


@pytest.mark.parametrize("kind", FITTED)
def test_fits_are_frozen_and_repeat(kind):
    state = torch.get_rng_state()
    prior, again = make(kind), make(kind)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert all(map(torch.equal, prior.state_dict().values(), again.state_dict().values()))
    if prior.settings_class.trained:
        other = make(kind, seed=1).state_dict()
        assert not all(map(torch.equal, prior.state_dict().values(), other.values()))


@pytest.mark.parametrize("kind", SAMPLED)
def test_samples_follow_the_generator(kind):
    prior = make(kind)
    draws = prior.sample(6, seeded(3))
    assert draws.shape == (6, 1, 5, 5)
    assert torch.equal(draws, prior.sample(6, seeded(3)))
    assert not torch.equal(draws, prior.sample(6, seeded(4)))
    torch.manual_seed(0)
    free = prior.sample(6)
    assert not torch.equal(free, prior.sample(6)), "without a generator torch's own moves on"


@pytest.mark.parametrize("kind", [kind for kind in FITTED if kind in PAID])
def test_held_out_kernels_are_judged_alike_in_double_precision(kind):
    prior, test = make(kind), torch.randn(9, 1, 5, 5, generator=seeded(2))
    # Codes are drawn in one precision or the other; the densities without codes only round.
    drawn = not prior.exact
    before, after = prior.evaluate(test), prior.double().evaluate(test.double())
    assert before.keys() == after.keys()
    metric = "elbo" if drawn else "log_prob"
    assert after[metric] == pytest.approx(before[metric], rel=0.2 if drawn else 1e-5)
    assert prior.sample(3, seeded()).dtype == prior.log_prob(test.double()).dtype == torch.float64


@pytest.mark.parametrize("kind", PAID)
@pytest.mark.parametrize("log_variance", [-200.0, -100.0, -10.0, 0.0, 20.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kl_and_its_gradients_are_finite_at_extremes(kind, log_variance, dtype):
    prior = extreme(kind)
    for value in (0.0, 1e-20, 1e-4, 1.0, 1e3):
        mean = torch.full((4, 1, 5, 5), value, dtype=dtype, requires_grad=True)
        variance = torch.full((4, 1, 5, 5), log_variance, dtype=dtype, requires_grad=True)
        for samples in (1, 3):
            kl = prior.kl(GaussianPosterior(mean, variance), KLEstimator(importance_samples=samples))
            gradients = torch.autograd.grad(kl, (mean, variance))
            assert kl.dtype == torch.float32
            assert all(bool(tensor.isfinite().all()) for tensor in (kl, *gradients))


extreme = functools.cache(make)


@pytest.mark.parametrize("field", ["subset", "posterior_samples", "importance_samples"])
def test_bounds_count_from_one(field):
    with pytest.raises(InputError, match=f"KLEstimator: {field} is 0; expected a whole number from 1"):
        KLEstimator(**{field: 0})
