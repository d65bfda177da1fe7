"""`dwp.fit_prior`: defaults, held-out log density, refusals."""

import math

import pytest
import torch
from prior_helpers import gaussian_kernels, seeded

import dwp
from dwp import fitting
from dwp.errors import InputError
from dwp.kernels.collection import split
from dwp.priors.base import find
from dwp.training.schedule import Schedule

KERNELS = torch.randn(200, 1, 3, 3, generator=seeded(0))
QUICK = {"schedule": {"steps": 3}}


@pytest.mark.parametrize(
    "kind",
    [
        *("vae", "flow", "flow_matching", "arbitrary_conditioning_vae", "pairwise_augmented_gan"),
        "metropolis_hastings",
        *("gaussian", "gaussian_mixture", "student_t", "empirical"),
    ],
)
def test_every_fitted_kind_is_fitted_saved_and_loaded(kind, tmp_path):
    quick = QUICK if find(kind).settings_class.trained else {}
    prior = dwp.fit_prior(KERNELS, kind, **quick)
    assert (prior.kind, prior.kernel_size) == (kind, 3)
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    dwp.save_prior(prior, tmp_path / "p.safetensors")
    loaded = dwp.load_prior(tmp_path / "p.safetensors")
    assert torch.equal(loaded.sample(5, seeded()), prior.sample(5, seeded()))
    assert loaded.held_out == prior.held_out
    if not prior.settings_class.has_density:
        assert prior.held_out == {}
    else:
        assert prior.held_out["kernels"] == len(split(KERNELS, 0.2)[1])
        assert prior.held_out["samples"] == (1 if prior.exact else 100)
        assert math.isfinite(prior.held_out["log_prob"] + prior.held_out["standard_error"])
    # The same seed gives the same prior.
    again = dwp.fit_prior(KERNELS, kind, **quick)
    dwp.save_prior(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "p.safetensors").read_bytes()


def test_priors_of_the_workflow_are_saved_as_before(tmp_path):
    prior, _ = find("gaussian").fit(KERNELS, KERNELS, {}, seed=0)
    dwp.save_prior(prior, tmp_path / "p.safetensors")
    assert b"held_out" not in (tmp_path / "p.safetensors").read_bytes()
    assert dwp.load_prior(tmp_path / "p.safetensors").held_out == {}


def test_the_defaults_are_those_of_the_docstring(monkeypatch):
    seen = {}

    def fit(train, test, settings, **training):
        seen.update(settings=settings, training=training, train=len(train), test=len(test))
        raise KeyboardInterrupt

    for kind in ("vae", "flow"):
        monkeypatch.setattr(find(kind), "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            dwp.fit_prior(KERNELS, kind, seed=4)
        schedule = Schedule(**seen["settings"].pop("schedule"))
        assert (schedule.steps, schedule.batch, schedule.lr, schedule.decay) == (6000, 128, 0.001, "linear")
        assert seen["settings"].pop("validation_fraction") == 0.1
        assert seen["settings"] == ({"hidden": 32, "latent": 4} if kind == "vae" else {})
        assert seen["training"]["seed"] == 4
        assert seen["train"] + seen["test"] == 200
    with pytest.raises(KeyboardInterrupt):
        dwp.fit_prior(KERNELS, "vae", latent=7, schedule={"epochs": 2, "lr": 0.1})
    assert seen["settings"]["latent"] == 7
    assert seen["settings"]["schedule"] == {"epochs": 2, "batch": 128, "lr": 0.1}


def test_the_held_out_log_density_is_that_of_the_held_out_kernels():
    w, entropy = gaussian_kernels(4000, seed=0)
    prior = dwp.fit_prior(w, "gaussian")
    held_out = split(w, 0.2)[1]
    torch.testing.assert_close(prior.held_out["log_prob"], prior.log_prob(held_out).double().mean().item())
    assert prior.held_out["log_prob"] == pytest.approx(-entropy, abs=0.3)


def test_weights_of_a_convolution_are_kernels_too():
    prior = dwp.fit_prior(KERNELS.view(20, 10, 3, 3), "empirical")
    assert torch.equal(prior.kernels, dwp.fit_prior(KERNELS, "empirical").kernels)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("standard_normal", {}, "standard_normal has nothing to fit; use one of .*vae"),
        ("vea", {}, "kind: 'vea' is not known; .* the nearest is 'vae'"),
        ("vae", {"latents": 3}, "fit_prior: vae: 'latents' is not known; .* the nearest is 'latent'"),
        ("vae", {"latent": 0}, "vae: latent is 0; expected a whole number from 1"),
        ("vae", {"schedule": {"step": 3}}, "fit_prior: vae.schedule: 'step' is not known"),
        ("vae", {"schedule": {"steps": 0}}, "schedule: steps is 0"),
        ("gaussian", {"hidden": 3}, "fit_prior: gaussian has no settings; hidden was given"),
        ("gaussian", {"test_fraction": 0}, "200 kernels split into 200 for training and 0 for testing"),
        ("gaussian", {"test_fraction": 1}, "200 kernels split into 0 for training and 200 for testing"),
    ],
)
def test_refusals(kind, settings, message):
    with pytest.raises(InputError, match=message) as refused:
        dwp.fit_prior(KERNELS, kind, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (KERNELS[:, 0], r"weights have shape \[200, 3, 3\]"),
        (KERNELS[:, :, :2], r"weights have shape \[200, 1, 2, 3\]"),
        (KERNELS / 0, "numbers that are not finite"),
    ],
)
def test_kernels_of_another_form_are_refused(kernels, message):
    with pytest.raises(InputError, match=message):
        dwp.fit_prior(kernels, "gaussian")


def test_a_required_setting_of_a_new_kind_is_asked_for(monkeypatch):
    monkeypatch.setattr(fitting, "DEFAULTS", {})
    with pytest.raises(InputError, match="fit_prior: vae needs hidden: channels of the hidden layers"):
        dwp.fit_prior(KERNELS, "vae")
