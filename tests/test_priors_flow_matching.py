"""Flow matching: its density against integrals and dense Jacobians, its samples, its fits."""

import math

import pytest
import scipy.stats
import torch
from prior_helpers import (
    ERRORS,
    assert_integrates_to_one,
    assert_mean,
    curved_kernels,
    gaussian_kernels,
    posterior,
    seeded,
)
from torch.distributions import MultivariateNormal, Normal

from dwp.errors import InputError
from dwp.priors.base import KLEstimator
from dwp.priors.flow_matching import NOISE, FlowMatching
from dwp.priors.gaussian import Gaussian


def known(k=2, seed=0, strength=1.5):
    """Return a flow in double precision, far from a Gaussian, over kernels with a full covariance."""
    torch.manual_seed(seed)
    prior = FlowMatching(k, hidden=6, ode_steps=60).double().requires_grad_(False)
    for layer in (prior.first, prior.second, prior.last):
        torch.nn.init.normal_(layer.weight, std=strength / math.sqrt(layer.in_features))
    prior.mean.copy_(torch.linspace(-1, 1, k * k))
    prior.factor.copy_(0.5 * torch.eye(k * k) + torch.randn(k * k, k * k).tril(-1) / 5)
    return prior


def test_divergence_is_the_trace_of_the_jacobian():
    prior = known(3)
    x = torch.randn(5, 9, generator=seeded(), dtype=torch.float64)
    for time in (0.0, 0.3, 1.0):
        t = torch.tensor(time, dtype=torch.float64)
        _, found = prior.velocity(t, x)
        jacobian = torch.func.vmap(torch.func.jacrev(lambda x, t=t: prior.velocity(t, x[None])[0][0]))(x)
        torch.testing.assert_close(found, jacobian.diagonal(dim1=1, dim2=2).sum(1))
        trained = (found - found.mean()).abs().max()
        assert trained > 0.05, "the network takes part"


def test_density_integrates_to_one_in_one_dimension():
    prior = known(1)
    w = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    density = prior.log_prob(w.view(-1, 1, 1, 1)).exp()
    assert torch.trapezoid(density, w).item() == pytest.approx(1, abs=1e-6)
    # And its distribution is that of the samples.
    cumulative = torch.cumulative_trapezoid(density, w).numpy()
    draws = prior.sample(20_000, seeded()).flatten().numpy()

    def cdf(x):
        return cumulative[(x - w[0].item()).__truediv__(50 / 20_000).astype(int).clip(0, 19_999)]

    assert scipy.stats.kstest(draws, cdf).pvalue > 1e-3
    assert scipy.stats.kstest((draws - draws.mean()) / draws.std(), "norm").pvalue < 1e-3


def test_density_integrates_to_one_in_four_dimensions():
    prior = known(2, strength=0.8)
    prior.ode_steps = 20
    assert_integrates_to_one(prior, 20_000, width=2, most=0.03)


def test_density_is_that_of_the_change_of_variables_of_samples():
    prior = known()
    noise = torch.randn(4, 4, generator=seeded(), dtype=torch.float64)
    w = prior.sample(4, seeded())
    for z, kernel in zip(noise, w, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda z: prior.mean + prior._integrated(z[None], 0.0, 1.0)[0][0] @ prior.factor.T, z
        )
        expected = Normal(0.0, 1.0).log_prob(z).sum() - torch.linalg.slogdet(jacobian)[1]
        assert prior.log_prob(kernel[None]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_an_untrained_flow_is_the_gaussian():
    prior, w = FlowMatching(3, hidden=4).double(), posterior().mean
    prior.factor.copy_(torch.randn(9, 9, generator=seeded()).tril(-1) + 0.7 * torch.eye(9))
    prior.mean.fill_(0.3)
    covariance = (1 + NOISE**2) * prior.factor @ prior.factor.T
    expected = MultivariateNormal(prior.mean, covariance).log_prob(w.flatten(1))
    torch.testing.assert_close(prior.log_prob(w), expected, atol=1e-4, rtol=1e-5)


def test_kl_against_an_independent_estimate():
    prior, q = known(strength=0.8), posterior(n=3, k=2)
    torch.manual_seed(0)
    normal = Normal(q.mean, (0.5 * q.log_variance).exp())
    prior.ode_steps = 20
    w = normal.sample((1000,))
    terms = normal.log_prob(w).sum((1, 2, 3, 4)) - prior.log_prob(w.flatten(0, 1)).view(1000, -1).sum(1)
    error = terms.std().item() / math.sqrt(len(terms))
    assert_mean([prior.kl(q, KLEstimator(posterior_samples=50)) for _ in range(20)], terms.mean(), error)


def test_autocast_does_not_touch_the_density():
    prior, w = known(k=3).float(), posterior(dtype=torch.float32).mean
    expected = prior.log_prob(w)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.log_prob(w), expected)
    assert prior.log_prob(w.bfloat16()).dtype == torch.float32


# Fit

SCHEDULE = {"lr": 0.005, "epochs": 20, "batch": 64, "precision": "float32"}


def test_a_fit_keeps_what_is_gaussian():
    train, entropy = gaussian_kernels(1000, 0)
    test, _ = gaussian_kernels(1000, 7)
    settings = {"hidden": 8, "schedule": SCHEDULE | {"epochs": 5}, "validation_fraction": 0.2}
    prior, rows = FlowMatching.fit(train, test, settings, seed=0)
    assert {row["metric"] for row in rows} == {"log_prob", "validation_log_prob", "train_error"}
    found = prior.evaluate(test)["log_prob"]
    error = prior.log_prob(test).std().item() / math.sqrt(len(test))
    assert -entropy - 0.3 < found < -entropy + ERRORS * error


def test_a_fit_sees_what_a_gaussian_cannot():
    train, test = curved_kernels(3000, 0), curved_kernels(1000, 9)
    prior, rows = FlowMatching.fit(train, test, {"hidden": 64, "schedule": SCHEDULE}, seed=0)
    _, (gaussian,) = Gaussian.fit(train, test, {})
    found = [row["value"] for row in rows if row["metric"] == "log_prob"]
    assert found[0] == pytest.approx(gaussian["value"], abs=1e-2)
    assert found[-1] > gaussian["value"] + 1
    draws = prior.sample(4000, seeded())
    assert torch.corrcoef(torch.stack([draws[:, 0, 0, 0] ** 2, draws[:, 0, 0, 1]]))[0, 1] > 0.7


def test_refusals():
    with pytest.raises(InputError, match="ode_steps is 0; expected a whole number from 1"):
        FlowMatching(3, ode_steps=0)
