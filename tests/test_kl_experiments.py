"""Experiments without training: KL estimates by importance samples, subset and scale."""

import dataclasses
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from dwp.data import Dataset
from dwp.experiments import base, task
from dwp.experiments.base import COLUMNS
from dwp.experiments.task import Task
from dwp.pipeline.typed import parse
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.empirical import Empirical
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

NAMES = ("kl_importance", "kl_subset", "kl_profile")
# 16 kernels of 5×5 and, in two layers, 4 + 16 of 3×3.
NETWORK = {
    "layers": [{"conv": 4, "kernel": 3}, {"conv": 4, "kernel": 3}, {"conv": 4, "kernel": 5}],
    "batch_norm": False,
}
SETTINGS = {"network": NETWORK, "std": 0.05, "posterior_samples": 1, "importance_samples": 1}
DWP = {"posterior": "additive", "prior": "vae", "init": {"from": "filters"}}
NORMAL = DWP | {"prior": "standard_normal"}


class Rough(Prior):
    """A density without a closed-form KL, so that `Prior.kl` estimates it."""

    def log_prob(self, w, samples=1):
        return -w.abs().flatten(1).sum(1).exp()


@pytest.fixture(scope="module")
def shared():
    """What the tasks of all experiments share, beside settings and method."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    priors = {name: {} for name in ("vae", "filters", "standard_normal", "log_uniform", "molchanov", "rough")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for k in (3, 5):
            filters = 0.3 * torch.randn(50, 1, k, k, generator=generator)
            priors["filters"][k] = Empirical.fit(filters, filters[:5], {})[0]
            priors["vae"][k] = VAE(k, hidden=4, latent=2).requires_grad_(False)
            priors["standard_normal"][k] = StandardNormal(k)
            priors["log_uniform"][k] = LogUniform(k)
            priors["molchanov"][k] = LogUniform(k, approximation="molchanov")
            priors["rough"][k] = Rough(k)
    dataset = Dataset("none", images, torch.arange(2), images, torch.arange(2))
    return {"dataset": dataset, "priors": priors, "device": torch.device("cpu")}


def of(experiment, shared, settings, method=DWP, **options):
    """Return what the tasks of an experiment at these settings share."""
    declared = base.find(experiment)
    names = {entry.name for entry in dataclasses.fields(declared.settings)}
    chosen = {key: value for key, value in SETTINGS.items() if key in names} | options
    cell = {"seeds": 1, "shard": 1, "methods": {"method": method}, declared.axis: settings}
    parsed = parse(declared.settings, chosen | cell)
    return shared | {"settings": parsed, "method": parsed.methods["method"]}


def run(shared, experiment, settings, seeds, method=DWP, **options):
    """Return values by kernel size, [settings, seeds]."""
    own = of(experiment, shared, settings, method, **options)
    values = defaultdict(dict)
    for row in (row for seed in range(seeds) for row in task.run(experiment, "method", seed, **own)):
        assert row["metric"] == "kl"
        values[row["part"]][row["setting"], row["seed"]] = row["value"]
    return {
        part: np.array([[cells[setting, seed] for seed in range(seeds)] for setting in settings])
        for part, cells in values.items()
    }


def kernels(shared, seed, layers):
    """Return the kernels of a network before training, [n, 1, k, k]."""
    own = of("kl_profile", shared, [1.0])
    model = Task(setting=1.0, seed=seed, **own).build_initialised()
    return torch.cat([model.get_submodule(name).weight.flatten(0, 1)[:, None] for name in layers]).detach()


@pytest.mark.parametrize("experiment", NAMES)
def test_rows_are_tidy_and_repeat_and_hold_all_settings(shared, experiment):
    assert not base.find(experiment).trains
    own = of(experiment, shared, [1, 2])

    def run_seeds(*seeds):
        return [row for seed in seeds for row in task.run(experiment, "dwp", seed, **own)]

    rows = run_seeds(3, 4)
    assert {tuple(row) for row in rows} == {COLUMNS}
    assert [(row["seed"], row["setting"], row["metric"], row["part"]) for row in rows] == [
        (seed, setting, "kl", part) for seed in (3, 4) for setting in (1, 2) for part in ("3x3", "5x5")
    ]
    assert all(row["step"] == 0 and math.isfinite(row["value"]) for row in rows)
    torch.manual_seed(77)
    assert run_seeds(3, 4) == rows
    assert run_seeds(4) == rows[4:]
    values = [[row["value"] for row in rows if row["seed"] == seed] for seed in (3, 4)]
    assert values[0] != values[1]


@pytest.mark.parametrize("prior", ["rough", "standard_normal", "vae"])
def test_an_estimate_is_that_of_the_prior_under_the_same_noise(shared, prior):
    found = run(shared, "kl_profile", [0.5], 1, DWP | {"prior": prior}, posterior_samples=3)
    torch.manual_seed(1_000_003)
    nats = []
    for layer in ("conv1", "conv2", "conv3"):
        mean = 0.5 * kernels(shared, 0, [layer])
        q = GaussianPosterior(mean, torch.full_like(mean, 2 * math.log(0.05)))
        nats.append(shared["priors"][prior][mean.shape[-1]].kl(q, KLEstimator(None, 3, 1)).item())
    assert found["3x3"][0, 0] == pytest.approx((nats[0] + nats[1]) / 20, rel=1e-5)
    assert found["5x5"][0, 0] == pytest.approx(nats[2] / 16, rel=1e-5)


def test_the_bound_tightens_with_importance_samples_and_an_exact_one_stays(shared):
    found = run(shared, "kl_importance", [1, 5, 50], 30)
    for values in found.values():
        for fewer, more in ((0, 1), (1, 2)):
            # The noise of w is the same for every K, so differences have less spread than values.
            fall = values[fewer] - values[more]
            assert fall.mean() > 3 * fall.std(ddof=1) / math.sqrt(len(fall))
    for prior in ("standard_normal", "rough"):
        for values in run(shared, "kl_importance", [1, 5], 3, DWP | {"prior": prior}).values():
            assert (values[0] == values[1]).all()


@pytest.mark.parametrize("experiment", ["kl_importance", "kl_subset"])
def test_seeds_of_an_estimator_are_of_one_network(shared, experiment):
    values = run(shared, experiment, [64], 4, NORMAL)
    assert all(np.ptp(found) == 0 for found in values.values())
    assert np.ptp(run(shared, "kl_profile", [1], 4, NORMAL)["5x5"]) > 0


def test_the_subset_is_unbiased_and_its_variance_falls_as_for_draws_without_replacement(shared):
    # So little noise that only the choice of kernels varies: s²·(1/m - 1/M) is then all the variance.
    seeds, sizes, total = 100, [2, 8, 16], 16
    method, options = DWP | {"prior": "rough"}, {"std": 1e-6}
    found = run(shared, "kl_subset", sizes, seeds, method, **options)["5x5"]
    assert np.ptp(found[-1]) < 1e-4 * found[-1].mean()
    cost = -shared["priors"]["rough"][5].log_prob(kernels(shared, 0, ["conv3"])).double()
    for size, values in zip(sizes[:-1], found, strict=False):
        expected = cost.var().item() * (1 / size - 1 / total)
        assert abs(values.mean() - found[-1].mean()) < 4 * math.sqrt(expected / seeds)
        kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
        assert values.var(ddof=1) == pytest.approx(expected, rel=4 * math.sqrt((kurtosis - 1) / seeds))


def test_the_profile_is_the_closed_form_of_the_standard_normal(shared):
    scales, std = [0, 0.5, 1, 2], 0.05
    found = run(shared, "kl_profile", scales, 2, NORMAL)
    for part, layers, weights in (("3x3", ["conv1", "conv2"], 9), ("5x5", ["conv3"], 25)):
        for seed in range(2):
            squares = kernels(shared, seed, layers).square().flatten(1).sum(1).mean().item()
            for scale, value in zip(scales, found[part][:, seed], strict=True):
                closed = 0.5 * (weights * (std**2 - 1 - 2 * math.log(std)) + scale**2 * squares)
                assert value == pytest.approx(closed, rel=1e-5)


def test_the_log_uniform_prior_is_flat_under_multiplicative_noise_and_draws_to_zero_under_additive(shared):
    own = DWP | {"prior": "log_uniform", "posterior": "truncated_alpha"}
    for values in run(shared, "kl_profile", [0.5, 1, 2], 1, own).values():
        assert np.ptp(values) < 1e-4 * abs(values.mean())
    # Where a weight is far from zero by the noise, the density is 1/|w|: log 2 for each doubling.
    found = run(shared, "kl_profile", [0, 1, 64, 128], 1, DWP | {"prior": "molchanov"})
    for part, weights in (("3x3", 9), ("5x5", 25)):
        values = found[part][:, 0]
        assert (np.diff(values) > 0).all()
        assert values[3] - values[2] == pytest.approx(weights * math.log(2), rel=0.02)
