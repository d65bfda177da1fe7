"""Experiments on initialisations: trained parameters, width and initialisation."""

import pytest
import torch
from experiment_samples import METHODS, changed, dataset, fitted, make_priors, pretrained, run

from dwp.bayes.layers import BayesConv2d

__all__ = ["dataset", "fitted", "pretrained", "run"]


@pytest.mark.parametrize("method", METHODS["random_features"])
def test_frozen_convolutions_stay(run, fitted, method):
    run("random_features", method, [0])
    ((model, before, _),) = fitted
    moved = changed(model, before)
    assert not any(name.startswith("conv") for name in moved)
    assert {"classifier.weight", "classifier.bias", "norm1.weight", "norm2.bias"} <= moved


@pytest.mark.parametrize("experiment", ["convergence", "image_vae"])
def test_other_convolutions_do_not_stay(run, fitted, experiment):
    run(experiment, "xavier", [0])
    ((model, before, _),) = fitted
    assert changed(model, before) == set(before)


def test_the_width_is_the_setting(run, fitted):
    for width in (0.25, 1):
        run("convergence", "xavier", [0], setting=width)
        run("image_vae", "xavier", [0], setting=width)
    networks = [getattr(model, "encoder", model) for model, _, _ in fitted]
    assert [network.conv1.out_channels for network in networks] == [1, 1, 4, 4]


@pytest.mark.parametrize("method", ["filters", "dwp"])
def test_an_image_vae_starts_from_draws_of_its_init_on_both_sides(run, fitted, method):
    run("image_vae", method, [0], setting=1)
    ((model, before, _),) = fitted
    learned = {k: prior.kernels for k, prior in make_priors()["filters"].items()}
    turned = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ConvTranspose2d)]
    assert len(turned) == 2
    for name in ("encoder.conv1", "encoder.conv2", *turned):
        drawn = before[f"{name}.weight"].flatten(0, 1)[:, None]
        known = [any(torch.equal(kernel, one) for one in learned[drawn.shape[-1]]) for kernel in drawn]
        assert all(known) == (method == "filters"), name


def test_a_bayesian_method_starts_from_its_init(run, fitted):
    run("few_shot", "dwp", [0])
    run("few_shot", "standard_normal", [0])
    run("convergence", "dwp_mean", [0], setting=1)
    run("convergence", "xavier", [0], setting=1)
    starts = [before for _, before, _ in fitted]
    for bayesian, ordinary in ((0, 2), (1, 3)):
        assert torch.equal(starts[bayesian]["0.conv1.posterior.mean"], starts[ordinary]["conv1.weight"])
    assert isinstance(fitted[0][0][0].conv1, BayesConv2d)
    assert fitted[0][0][0].conv1.posterior.prior.kernel_size == 7
