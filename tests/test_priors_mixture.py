"""The mixture of norms and directions: density, samples, gradients and fit."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from prior_helpers import assert_integrates_to_one, assert_mean, posterior, seeded
from torch.distributions import Normal

from dwp.errors import InputError
from dwp.priors.mixture import Mixture
from dwp.priors.student_t import StudentT

NORMS = [-0.6, 0.2]
DEVIATIONS = [0.3, 0.1]
WEIGHTS = [[0.4, 0.1], [0.2, 0.3]]


def known(k=2, seed=0):
    """Return a mixture of two components in double precision with given parameters."""
    prior, generator, d = Mixture(k, components=2, norms=2).double(), seeded(seed), k * k
    for c in range(2):
        root = torch.randn(d, d, generator=generator, dtype=torch.float64)
        covariance = root @ root.T / d + 0.2 * torch.eye(d)
        prior.whitening[c] = torch.linalg.inv(torch.linalg.cholesky(covariance))
        prior.shift[c] = prior.whitening[c] @ torch.randn(d, generator=generator).double()
    prior.log_weights.copy_(torch.tensor(WEIGHTS).log())
    prior.log_norm.copy_(torch.tensor(NORMS))
    prior.log_norm_std.copy_(torch.tensor(DEVIATIONS))
    return prior


def parameters(prior, c):
    """Return mean and covariance of the normal that component c projects."""
    root = torch.linalg.inv(prior.whitening[c])
    return (root @ prior.shift[c]).numpy(), (root @ root.T).numpy()


def test_density_is_that_of_norm_and_direction():
    prior, w = known(), posterior(n=6, k=2).mean
    found = prior.log_prob(w).exp()
    for kernel, density in zip(w.flatten(1).numpy(), found, strict=True):
        norm, d = np.linalg.norm(kernel), kernel.size
        expected = 0.0
        for c in range(2):
            normal = scipy.stats.multivariate_normal(*parameters(prior, c))

            def along(r, normal=normal, direction=kernel / norm, d=d):
                return r ** (d - 1) * normal.pdf(r * direction)

            direction = scipy.integrate.quad(along, 0, np.inf, epsabs=1e-13)[0]
            norms = sum(
                weight * scipy.stats.lognorm(deviation, scale=math.exp(mean)).pdf(norm)
                for weight, mean, deviation in zip(WEIGHTS[c], NORMS, DEVIATIONS, strict=True)
            )
            expected += direction * norms / norm ** (d - 1)
        assert density.item() == pytest.approx(expected, rel=5e-4)


def test_density_integrates_to_one():
    assert_integrates_to_one(known(), 200_000, width=1.5, most=0.01)


def test_samples_follow_the_density():
    prior, other = known(k=3), known(k=3)
    other.shift.mul_(0.7)
    other.log_norm.add_(0.1)
    w = prior.sample(20_000, seeded())
    # The mean of q/p under p is one for any density q; here q is the same kind with other parameters.
    assert_mean((other.log_prob(w) - prior.log_prob(w)).exp(), 1)
    normals = [scipy.stats.norm(*each) for each in zip(NORMS, DEVIATIONS, strict=True)]

    def cumulative(x):
        return sum(p * normal.cdf(x) for p, normal in zip(np.sum(WEIGHTS, 0), normals, strict=True))

    assert scipy.stats.kstest(w.flatten(1).norm(dim=1).log().numpy(), cumulative).pvalue > 1e-3
    assert torch.equal(w, prior.sample(20_000, seeded(), mean=True))


def test_gradients_are_those_of_the_density():
    prior, w = known(k=3), posterior(n=4).mean.requires_grad_()
    assert torch.autograd.gradcheck(prior.log_prob, (w,), atol=1e-4)


def test_kl_against_an_independent_estimate():
    prior, q = known(), posterior(n=3, k=2)
    torch.manual_seed(0)
    normal = Normal(q.mean, (0.5 * q.log_variance).exp())
    w = normal.sample((4000,))
    terms = normal.log_prob(w).sum((1, 2, 3, 4)) - prior.log_prob(w.flatten(0, 1)).view(4000, -1).sum(1)
    error = terms.std().item() / math.sqrt(len(terms))
    assert_mean([prior.kl(q) for _ in range(1000)], terms.mean(), error)


def test_autocast_does_not_touch_the_density():
    prior, w = known(k=3).float(), posterior(dtype=torch.float32).mean
    expected = prior.log_prob(w)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.log_prob(w), expected)
    assert prior.log_prob(w.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(expected.double(), known(k=3).log_prob(w.double()), rtol=0, atol=1e-3)


def test_the_objective_of_a_fit_never_decreases():
    w = known(k=3).sample(300, seeded())
    prior = Mixture(3, components=3, norms=3).double()
    objective, log_prob = zip(*prior.maximise(w), strict=True)
    assert len(objective) > 10
    assert min(np.diff(objective)) > -1e-9
    assert log_prob[-1] == pytest.approx(prior.log_prob(w).mean().item())
    _, rows = Mixture.fit(w, w[:20], {"components": 3, "norms": 3})
    assert tuple(row["value"] for row in rows if row["metric"] == "train_log_prob") == log_prob
    assert [row["step"] for row in rows if row["metric"] == "log_prob"] == [len(log_prob) - 1]


def test_a_fit_finds_the_distribution():
    true = known(k=3)
    train, test = true.sample(6000, seeded(1)), true.sample(4000, seeded(2))
    fitted, rows = Mixture.fit(train, test, {"components": 2, "norms": 2})
    # KL(true || fitted): about half a nat for each of 116 parameters by 6,000 kernels.
    assert -0.01 < (true.log_prob(test) - fitted.log_prob(test)).mean().item() < 0.05
    assert rows[-1]["value"] == pytest.approx(fitted.log_prob(test).mean().item())


def test_draws_have_mean_and_norms_of_the_kernels():
    """Kernels of one sign with norms that have a sharp upper bound."""

    def kernels(n, seed):
        generator = seeded(seed)
        shape = torch.randn(n, 1, 3, 3, generator=generator) + torch.linspace(-2, 2, 9).view(3, 3)
        norm = 1 - 0.9 * torch.rand(n, generator=generator).pow(4)
        return shape * (norm / shape.flatten(1).norm(dim=1))[:, None, None, None]

    train, test = kernels(2000, 0), kernels(2000, 1)
    prior = Mixture.fit(train, test, {})[0]
    draws = prior.sample(8000, seeded()).flatten(1)
    torch.testing.assert_close(draws.mean(0), test.flatten(1).mean(0), atol=0.03, rtol=0)
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    of_draws, of_test = (x.norm(dim=1).quantile(quantiles) for x in (draws, test.flatten(1)))
    torch.testing.assert_close(of_draws, of_test, atol=0.05, rtol=0)
    student = StudentT.fit(train, test, {})[0]
    assert prior.log_prob(test).mean() > student.log_prob(test).mean() + 0.5


def test_uniform_directions_have_the_norms_only():
    kernels = known().sample(4_000, seeded(0)) + torch.tensor([0.5, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    prior = Mixture.fit(kernels, kernels, {"directions": "uniform", "norms": 2}, seed=0)[0]
    norms = kernels.flatten(1).norm(dim=1)
    weights = prior.log_weights.exp().flatten()
    density = sum(
        weight * scipy.stats.lognorm(deviation, scale=math.exp(mean)).pdf(norms[:50])
        for weight, mean, deviation in zip(weights, prior.log_norm, prior.log_norm_std, strict=True)
    )
    # The sphere in four dimensions has the area 2π²r³.
    expected = np.log(density) - math.log(2 * math.pi**2) - 3 * norms[:50].log().numpy()
    np.testing.assert_allclose(prior.log_prob(kernels[:50]).numpy(), expected, atol=5e-4)
    draws = prior.sample(20_000, seeded(1)).flatten(1)
    assert draws.norm(dim=1).mean().item() == pytest.approx(norms.mean().item(), rel=0.03)
    second = torch.cov(draws.T) / draws.square().mean()
    torch.testing.assert_close(second, torch.eye(4, dtype=second.dtype), rtol=0, atol=0.05)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_kernels_are_fitted(n):
    w = torch.randn(n, 1, 3, 3, generator=seeded())
    prior, rows = Mixture.fit(w, w, {})
    assert all(math.isfinite(row["value"]) for row in rows)
    assert bool(prior.sample(100, seeded()).isfinite().all())


def test_equal_norms_and_kernels_of_zeros_do_not_fail():
    w = torch.randn(50, 1, 3, 3, generator=seeded())
    w /= w.flatten(1).norm(dim=1)[:, None, None, None]
    prior, _ = Mixture.fit(w, w, {})
    assert prior.sample(1000, seeded()).flatten(1).norm(dim=1).std().item() < 0.01
    w[:3] = 0
    prior, rows = Mixture.fit(w, w, {})
    assert all(math.isfinite(row["value"]) for row in rows)
    zero = torch.zeros(2, 1, 3, 3, requires_grad=True)
    prior.log_prob(zero).sum().backward()
    assert bool(zero.grad.isfinite().all())


def test_refusals():
    with pytest.raises(InputError, match="kernel size 1 cannot be built; it takes sizes from 2"):
        Mixture(1)
    with pytest.raises(InputError, match="components is 0; expected a whole number from 1"):
        Mixture(3, components=0)
    with pytest.raises(InputError, match="shrinkage is 0; expected a number above 0"):
        Mixture(3, shrinkage=0)
