"""Priors as files, collections of them, and kinds by name."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
from prior_helpers import assert_mean, seeded, vae
from prior_kinds import KINDS, SAMPLED, make
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributions import Laplace

from dwp import init_, make_bayesian
from dwp.bayes.layers import kl as bayesian_kl
from dwp.errors import InputError
from dwp.priors import base
from dwp.priors import settings as prior_settings
from dwp.priors.base import Prior, collection, find, load_prior, register, save_prior
from dwp.priors.settings import PriorSettings
from dwp.priors.vae import VAE
from dwp.settings import setting


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
        with pytest.raises(InputError, match=f"kind: '{kind}' is not known; use one of .*, ard, .*, vae"):
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
    assert init_(model, [prior], gain=None, generator=seeded()).changed == ["0", "2"]
    weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach().numpy()
    assert scipy.stats.kstest(weights, "laplace", (0, 0.5)).pvalue > 1e-3
    make_bayesian(model, {3: prior})
    # E|w| under a posterior this narrow is |mean|: the cross-entropy is known.
    cross_entropy = (np.abs(weights) / 0.5 + math.log(2 * 0.5)).sum()
    entropy = sum(layer.posterior.kernels().entropy().item() for layer in (model[0], model[2]))
    torch.manual_seed(0)
    assert_mean([bayesian_kl(model).item() for _ in range(200)], cross_entropy - entropy, 0.02)
