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
from dwp.priors.scores import compare_samples, energy_test, held_out, low_frequencies, score
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
    held, learned, sample, mean = compare_samples(priors, train, test, 1000)
    assert all(tuple(row) == scores.SAMPLES for row in (held, learned, sample, mean))
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
    assert repr(compare_samples(priors, train, test, 1000)) == repr([held, learned, sample, mean])
    assert learned["bytes"] == 200 * 9 * 4
    assert mean["bytes"] == sample["bytes"] == 4 * sum(p.numel() for p in priors["vae"].parameters())
    found = energy_test(priors["learned"].sample(1000, torch.Generator().manual_seed(0)), test)
    assert (learned["energy"], learned["p_value"]) == found
    assert (held["energy"], held["p_value"]) == energy_test(test, train)
    assert held["p_value"] > 0.05 > sample["p_value"]
    assert held["low_frequencies"] == low_frequencies(test)
    assert all(np.isnan(row[name]) for row in (held, sample) for name in ("fit_seconds", "sample_seconds"))


def test_times_are_reported_if_they_are_asked_for():
    w = torch.randn(30, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    options = {"fit_seconds": {"a": 2.5}, "measure_time": True}
    held, a, b = compare_samples({"a": StandardNormal(3), "b": StandardNormal(3)}, w, w, 10, **options)
    assert a["fit_seconds"] == 2.5
    assert a["sample_seconds"] > 0
    assert np.isnan(b["fit_seconds"])
    assert np.isnan(held["sample_seconds"])
    assert a["bytes"] == 0


# Energy distance


def test_energy_is_that_of_scipy_in_one_dimension():
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(300, 1, 1, 1, generator=generator),
        0.5 + torch.randn(200, 1, 1, 1, generator=generator),
    )
    found, _ = energy_test(x, y)
    a, b = (w.flatten().double().numpy() for w in (x, y))
    between = np.abs(a[:, None] - b).mean()
    # That of scipy is the root of twice the integral of the squared difference of distribution functions.
    assert found == pytest.approx(stats.energy_distance(a, b) ** 2 / (2 * between), rel=1e-9)


def test_energy_is_that_of_its_definition():
    x, y = (gaussian_kernels(n, seed)[0].double() for n, seed in ((40, 0), (30, 9)))
    a, b = x.flatten(1), 1.3 * y.flatten(1)
    between, within = torch.cdist(a, b).mean(), torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
    found, p = energy_test(x, 1.3 * y)
    assert found == pytest.approx(((2 * between - within) / (2 * between)).item(), rel=1e-7)
    assert energy_test(x, 1.3 * y) == (found, p)
    assert energy_test(x, x) == (pytest.approx(0, abs=1e-12), 1.0)


def test_p_values_are_uniform_for_one_distribution_and_small_for_two():
    found = [
        energy_test(gaussian_kernels(40, s)[0], gaussian_kernels(40, 500 + s)[0], seed=s) for s in range(100)
    ]
    assert stats.kstest([p for _, p in found], "uniform").pvalue > 1e-3
    assert np.mean([energy for energy, _ in found]) == pytest.approx(1 / 40, rel=0.3)
    # Equal means and scales of weights, other correlations.
    w = gaussian_kernels(200, 0)[0]
    mixed = w.flatten()[torch.randperm(w.numel(), generator=torch.Generator().manual_seed(0))].view_as(w)
    assert energy_test(w, mixed)[1] == 1 / 200


def test_only_some_kernels_are_compared():
    w = gaussian_kernels(50, 0)[0]
    assert energy_test(w, w + 1, most=20)[0] != energy_test(w, w + 1)[0]
    assert energy_test(w[:1], w[:1]) == (0.0, 1.0)


# Spectrum


def test_the_share_of_low_frequencies():
    white = torch.randn(4000, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    assert low_frequencies(white) == pytest.approx(np.pi / 16, abs=0.01)
    assert low_frequencies(3 * white) == pytest.approx(low_frequencies(white))
    single = torch.zeros(1, 1, 5, 5)
    single[0, 0, 2, 2] = 1
    # The response of a single weight is flat: the share of grid points within the radius.
    assert low_frequencies(single) == pytest.approx(np.pi / 16, abs=0.02)
    i = torch.arange(7).double()
    smooth = (-((i[:, None] - 3) ** 2 + (i - 3) ** 2) / 4).exp()
    alternating = smooth * (-1.0) ** (i[:, None] + i)
    assert low_frequencies(smooth[None, None]) > 0.95
    assert low_frequencies(alternating[None, None]) < 0.01
    assert low_frequencies(torch.zeros(2, 1, 3, 3)) == 0


def test_the_mean_kernel_has_no_excess_from_few_draws():
    w = torch.randn(30, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    prior, train = StandardNormal(5), w[:2]
    found = [compare_samples({"a": prior}, train, w, 20, seed)[1]["relative_mean"] for seed in range(40)]
    # The plain estimate is about 1/√20 = 0.22 for a mean of zero.
    assert np.mean(np.square(found)) < 0.01
    shifted = compare_samples({}, train, w + 1, 20)[0]
    assert shifted["relative_mean"] == pytest.approx(np.sqrt(0.5), abs=0.1)
    assert np.isnan(compare_samples({}, train, w[:1])[0]["relative_mean"])


def test_what_the_settings_of_a_kind_say_of_it_is_so():
    kinds = prior_settings.known()
    assert len(kinds) == 18
    for kind in kinds:
        cls, facts = find(kind), prior_settings.find(kind)
        assert cls.settings_class is facts
        assert facts.has_density == (cls.log_prob is not Prior.log_prob)
        assert facts.has_kl == (facts.has_density or cls.kl is not Prior.kl)
        assert facts.has_samples == (cls.sample is not Prior.sample)
        assert facts.has_codes == (hasattr(cls, "encode") and hasattr(cls, "decode"))
        assert facts.fitted == (cls.fit.__func__ is not Prior.fit.__func__)
