"""Scores of priors on held-out kernels, against independent computations in double precision."""

import numpy as np
import pytest
import torch
from prior_helpers import gaussian_kernels, vae
from scipy import stats

from dwp.priors import scores
from dwp.priors import settings as prior_settings
from dwp.priors.base import Prior, find
from dwp.priors.gaussian import Gaussian
from dwp.priors.scores import held_out, moments, score
from dwp.priors.standard_normal import StandardNormal


@pytest.fixture(scope="module")
def kernels() -> torch.Tensor:
    return gaussian_kernels(300, 0)[0].double()


def test_exact_priors_are_scored_once_as_scipy_scores_them(kernels):
    gaussian = Gaussian.fit(kernels[:200], kernels[200:], {})[0]
    found = score({"normal": StandardNormal(3, scale=0.5), "gauss": gaussian}, kernels, [1, 10])
    assert [row["prior"] for row in found] == ["normal", "gauss"]
    x = kernels.flatten(1).numpy()
    covariance = (gaussian.factor @ gaussian.factor.T).numpy()
    densities = (
        stats.norm(0, 0.5).logpdf(x).sum(1),
        stats.multivariate_normal(gaussian.mean.numpy(), covariance).logpdf(x),
    )
    for row, density in zip(found, densities, strict=True):
        assert tuple(row) == scores.COLUMNS
        assert (row["size"], row["exact"], row["samples"], row["kernels"]) == (3, True, 1, 300)
        assert row["mean"] == pytest.approx(density.mean(), rel=1e-9)
        assert row["standard_error"] == pytest.approx(stats.sem(density), rel=1e-9)


def test_bounds_grow_with_the_samples_towards_the_density(kernels):
    prior = vae().double()
    w = prior.sample(200, torch.Generator().manual_seed(1))
    found = score({"vae": prior}, w, [100, 1, 10])
    assert [row["samples"] for row in found] == [1, 10, 100]
    assert not any(row["exact"] for row in found)
    means = [row["mean"] for row in found]
    assert means == sorted(means)
    # p(w) by quadrature over the code's one dimension.
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    mean, variance = (moment.flatten(1) for moment in prior.decode(z))
    x = w.flatten(1)[:, None]
    log_likelihood = torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).sum(2)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0])
    density = torch.logsumexp(log_likelihood + log_prior, 1) + np.log(16 / 4000)
    assert means[0] < density.mean().item()
    assert means[2] == pytest.approx(density.mean().item(), abs=0.1)


def test_scores_repeat_and_leave_the_random_state_alone(kernels):
    prior = vae()
    torch.manual_seed(7)
    first = score({"a": prior, "b": prior}, kernels.float(), [1, 5])
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.rand(1) == drawn
    assert score({"b": prior}, kernels.float(), [5]) == [first[3]]
    # Each has the same noise.
    assert [row["mean"] for row in first[:2]] == [row["mean"] for row in first[2:]]


def test_parts_add_up(kernels, monkeypatch):
    prior = StandardNormal(3)
    (whole,) = score({"a": prior}, kernels, [1])
    monkeypatch.setattr(scores, "CODES", 7)
    (parts,) = score({"a": prior}, kernels, [1])
    assert parts == pytest.approx(whole)


def test_one_kernel_has_no_standard_error(kernels):
    (row,) = score({"a": StandardNormal(3)}, kernels[:1], [1])
    assert np.isnan(row["standard_error"])


def test_held_out_kernels_are_drawn_without_replacement(kernels):
    chosen = held_out(kernels, 100)
    assert torch.equal(chosen, held_out(kernels, 100))
    assert len(chosen) == len(chosen.flatten(1).unique(dim=0)) == 100
    everything = held_out(kernels, 1000)
    assert torch.equal(everything.flatten().sort()[0], kernels.flatten().sort()[0])


def test_moments_are_those_of_draws_and_of_held_out_kernels(kernels):
    kernels = kernels.float() + 0.5
    train, test = kernels[:200], kernels[200:]
    priors = {"learned": find("empirical").fit(train, test, {})[0], "vae": vae()}
    held, learned, sample, mean = moments(priors, train, test, 1000)
    assert all(tuple(row) == scores.MOMENTS for row in (held, learned, sample, mean))
    assert (held["size"], held["prior"], held["draw"], held["kernels"]) == (3, "", "held_out", 100)
    assert (learned["kind"], learned["draw"], learned["kernels"]) == ("empirical", "sample", 1000)
    assert (sample["prior"], sample["draw"], mean["draw"]) == ("vae", "sample", "mean")
    norms = np.linalg.norm(test.flatten(1).double().numpy(), axis=1)
    assert held["rms_norm"] == pytest.approx(np.sqrt(np.mean(norms**2)))
    assert held["norm_25"] == pytest.approx(np.quantile(norms, 0.25))
    distances = torch.cdist(test.flatten(1).double(), train.flatten(1).double()).min(1).values
    assert held["nearest"] == pytest.approx(distances.median().item())
    assert learned["nearest"] == 0
    draws = priors["vae"].sample(1000, torch.Generator().manual_seed(0), mean=True)
    assert mean["norm_95"] == pytest.approx(draws.flatten(1).norm(dim=1).quantile(0.95).item(), rel=1e-5)
    assert moments(priors, train, test, 1000)[3] == mean


def test_the_mean_kernel_has_no_excess_from_few_draws():
    w = torch.randn(30, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    prior, train = StandardNormal(5), w[:2]
    found = [moments({"a": prior}, train, w, 20, seed)[1]["relative_mean"] for seed in range(40)]
    # The plain estimate is about 1/√20 = 0.22 for a mean of zero.
    assert np.mean(np.square(found)) < 0.01
    shifted = moments({}, train, w + 1, 20)[0]
    assert shifted["relative_mean"] == pytest.approx(np.sqrt(0.5), abs=0.1)
    assert np.isnan(moments({}, train, w[:1])[0]["relative_mean"])


def test_what_the_settings_of_a_kind_say_of_it_is_so():
    kinds = prior_settings.known()
    assert len(kinds) == 14
    for kind in kinds:
        cls, facts = find(kind), prior_settings.find(kind)
        assert cls.settings_class is facts
        assert facts.has_density == (cls.log_prob is not Prior.log_prob)
        assert facts.has_kl == (facts.has_density or cls.kl is not Prior.kl)
        assert facts.has_samples == (cls.sample is not Prior.sample)
        assert facts.has_codes == (hasattr(cls, "encode") and hasattr(cls, "decode"))
        assert facts.fitted == (cls.fit.__func__ is not Prior.fit.__func__)
