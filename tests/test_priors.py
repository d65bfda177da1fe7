"""Priors: every kind's files, samples and extremes; the standard normal; the registry."""

import functools
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
from prior_helpers import assert_mean, posterior, seeded, vae
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributions import Laplace, Normal, kl_divergence

from dwp import init_, make_bayesian
from dwp.bayes.layers import kl as bayesian_kl
from dwp.errors import InputError
from dwp.priors import base
from dwp.priors import settings as prior_settings
from dwp.priors.ard import ARD
from dwp.priors.base import KLEstimator, Prior, collection, find, load_prior, register, save_prior
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.empirical import Empirical
from dwp.priors.log_uniform import LogUniform
from dwp.priors.settings import PriorSettings
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE
from dwp.settings import setting

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

SCHEDULE = {"lr": 0.01, "steps": 3, "batch": 20, "precision": "float32"}
FITTED = {
    "empirical": ("empirical", {}),
    "gaussian": ("gaussian", {}),
    "student_t": ("student_t", {}),
    "flow": ("flow", {"hidden": 8, "transforms": 2, "schedule": SCHEDULE}),
    "spline flow": ("flow", {"hidden": 8, "transforms": 2, "coupling": "spline", "schedule": SCHEDULE}),
    "vae": ("vae", {"hidden": 4, "latent": 2, "schedule": SCHEDULE}),
    "vamp": ("vae", {"hidden": 4, "latent": 2, "code_prior": "vamp", "schedule": SCHEDULE}),
}
ANALYTIC = {
    "standard_normal": lambda: StandardNormal(5, scale=0.3),
    "log_uniform": lambda: LogUniform(5, approximation="molchanov"),
    "ard": lambda: ARD(5),
}
KINDS = [*ANALYTIC, *FITTED]
SAMPLED = [kind for kind in KINDS if kind not in ("log_uniform", "ard")]
PAID = [kind for kind in KINDS if kind != "empirical"]


def make(kind, seed=0):
    if kind in ANALYTIC:
        return ANALYTIC[kind]()
    name, settings = FITTED[kind]
    train, test = torch.randn(60, 1, 5, 5, generator=seeded(1)), torch.randn(9, 1, 5, 5, generator=seeded(2))
    return find(name).fit(train, test, settings, seed=seed)[0]


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


@pytest.mark.parametrize("kind", [kind for kind in FITTED if kind != "empirical"])
def test_held_out_kernels_are_judged_alike_in_double_precision(kind):
    prior, test = make(kind), torch.randn(9, 1, 5, 5, generator=seeded(2))
    # Codes are drawn in one precision or the other; the densities without codes only round.
    drawn = kind in ("vae", "vamp")
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


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind):
    prior, path = make(kind), tmp_path / "prior.safetensors"
    save_prior(prior, path)
    again = load_prior(path)
    assert type(again) is type(prior)
    assert (again.kernel_size, again.settings) == (prior.kernel_size, prior.settings)
    state, loaded = prior.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    if kind in SAMPLED:
        assert torch.equal(prior.sample(4, seeded()), again.sample(4, seeded()))


def test_a_file_with_a_setting_that_its_kind_does_not_have_is_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(vae(5), path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    settings = {"kernel_size": 5, "hidden": 6, "latent": 1, "depth": 3}
    save_file(
        tensors, path, {"dwp": json.dumps({"format": "dwp-prior-1", "kind": "vae", "settings": settings})}
    )
    with pytest.raises(InputError, match=r"cannot be loaded as a vae: .*'depth'"):
        load_prior(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prior_gives_the_same_bytes(tmp_path, kind):
    prior = make(kind)
    for number in range(10):
        save_prior(prior, tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_files_that_are_no_priors_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    with pytest.raises(InputError, match=r"there is no file .*prior\.safetensors"):
        load_prior(path)
    save_prior(vae(5), path)
    content = path.read_bytes()
    for damage in (b"", content[:20], content[: len(content) // 2], b"not a prior" * 50):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"prior\.safetensors cannot be read as safetensors"):
            load_prior(path)
    save_file({"conv.weight": torch.zeros(2)}, path)
    with pytest.raises(
        InputError, match=r"prior\.safetensors is not a prior of this library \(format None\)"
    ):
        load_prior(path)


def test_priors_with_other_tensors_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(vae(5), path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = sorted(tensors)[0]
    for wrong in (
        {key: value for key, value in tensors.items() if key != name},
        tensors | {name: torch.zeros(1)},
        tensors | {"more": torch.zeros(1)},
    ):
        save_file(wrong, path, metadata)
        with pytest.raises(InputError, match=r"prior\.safetensors cannot be loaded as a vae"):
            load_prior(path)


def test_collection(tmp_path):
    files = {k: tmp_path / f"any-name-{k}.safetensors" for k in (5, 3)}
    for k, file in files.items():
        save_prior(vae(k), file)
    priors = collection({"my-vae": files}, {"wide": {"kind": "standard_normal", "scale": 3.0}}, [5, 3])
    assert {name: sorted(sizes) for name, sizes in priors.items()} == {"my-vae": [3, 5], "wide": [3, 5]}
    assert all(size == prior.kernel_size for sizes in priors.values() for size, prior in sizes.items())
    assert priors["wide"][5].scale == 3.0


# The registry


def test_unknown_kinds_name_the_known_ones():
    for kind in ("gauss", "base", "empirical2", "_kinds"):
        with pytest.raises(InputError, match=f"kind: '{kind}' is not known; use one of ard, .*, vae"):
            find(kind)
    assert find("vae") is VAE


def test_a_new_kind_needs_no_other_change(tmp_path, monkeypatch):
    for registry in (base, prior_settings):
        monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))

    @dataclass(frozen=True, kw_only=True)
    class LaplaceSettings(PriorSettings):
        kind = "laplace"
        scale: float = setting("mean of |w|", gt=0)

    @register
    class LaplacePrior(Prior):
        settings_class = LaplaceSettings

        def __init__(self, kernel_size, scale):
            super().__init__(kernel_size, scale=scale)
            self.register_buffer("scale", torch.tensor(scale))

        def log_prob(self, w, samples=1):
            return Laplace(0.0, self.scale).log_prob(w).flatten(1).sum(1)

        def sample(self, n, generator=None, *, mean=False):
            uniform = torch.rand(n, 1, self.kernel_size, self.kernel_size, generator=generator) - 0.5
            return -self.scale * uniform.sign() * torch.log1p(-2 * uniform.abs())

    save_prior(LaplacePrior(3, scale=0.5), tmp_path / "p.safetensors")
    prior = load_prior(tmp_path / "p.safetensors")
    assert isinstance(prior, find("laplace"))
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 40, 3), torch.nn.ReLU(), torch.nn.Conv2d(40, 8, 3))
    assert init_(model, [prior], generator=seeded()) == ["0", "2"]
    weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach().numpy()
    assert scipy.stats.kstest(weights, "laplace", (0, 0.5)).pvalue > 1e-3
    make_bayesian(model, {3: prior})
    # E|w| under a posterior this narrow is |mean|: the cross-entropy is known.
    cross_entropy = (np.abs(weights) / 0.5 + math.log(2 * 0.5)).sum()
    entropy = sum(layer.posterior.kernels().entropy().item() for layer in (model[0], model[2]))
    torch.manual_seed(0)
    assert_mean([bayesian_kl(model).item() for _ in range(200)], cross_entropy - entropy, 0.02)
