"""Predictions of Bayesian networks: members are posterior samples, and the model is unchanged."""

import contextlib
import copy
import math

import pytest
import scipy.stats
import torch
from bayesian_samples import PRIORS, small_net
from torch import nn

from dwp import Noise, make_bayesian, predict, set_noise
from dwp.bayes import layers
from dwp.bayes.layers import bayesian_layers
from dwp.priors.standard_normal import StandardNormal


@pytest.fixture(scope="module")
def bayesian():
    model = make_bayesian(small_net(), PRIORS)
    for layer in bayesian_layers(model):
        layer.posterior.log_variance.data.fill_(-2)
    return model.eval()


def test_a_member_is_the_same_whatever_the_chunks_images_and_company(bayesian):
    x = torch.randn(17, 1, 12, 12)
    full = predict(bayesian, x, 4)
    assert full.shape == (4, 17, 5)
    torch.testing.assert_close(full.sum(2), torch.ones(4, 17).double())
    for chunk in (1, 5, 17):
        torch.testing.assert_close(predict(bayesian, x, 4, chunk=chunk), full, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(predict(bayesian, x[:3], 4), full[:, :3], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(predict(bayesian, x, 2), full[:2], rtol=1e-4, atol=1e-6)
    assert (full[0] - full[1]).abs().max() > 0.01
    assert (predict(bayesian, x, 1, generator_seed=1) - full[:1]).abs().max() > 0.01


def test_prediction_repeats_and_leaves_the_global_generator_alone(bayesian):
    x, state = torch.randn(3, 1, 12, 12), torch.get_rng_state()
    first = predict(bayesian, x, 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, predict(bayesian, x, 2))


def test_no_samples_predict_with_the_mean(bayesian):
    x = torch.randn(3, 1, 12, 12)
    set_noise(bayesian, Noise.NONE)
    expected = bayesian(x).double().softmax(1)[None]
    set_noise(bayesian, Noise.OUTPUTS)
    torch.testing.assert_close(predict(bayesian, x, samples=0), expected)
    plain = small_net().eval()
    torch.testing.assert_close(predict(plain, x, samples=0), plain(x).double().softmax(1)[None])


@pytest.mark.parametrize("training", [True, False])
def test_prediction_restores_the_model(bayesian, training):
    model = copy.deepcopy(bayesian).train(training)
    first, second = bayesian_layers(model)
    first.noise, second.noise = Noise.NONE, Noise.OUTPUTS
    before = copy.deepcopy(model.state_dict())
    predict(model, torch.randn(3, 1, 12, 12), 2)
    assert (first.noise, second.noise) == (Noise.NONE, Noise.OUTPUTS)
    assert {module.training for module in model.children()} | {model.training} == {training}
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("channels", [1, 2])
def test_prediction_restores_the_mode_of_every_module(bayesian, channels):
    model = copy.deepcopy(bayesian).train()
    model.norm1.eval()
    model.conv2.posterior.eval()
    before = {name: module.training for name, module in model.named_modules()}
    with contextlib.nullcontext() if channels == 1 else pytest.raises(RuntimeError):
        predict(model, torch.randn(3, channels, 12, 12), 2)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_prediction_goes_through_a_module_s_own_switch():
    class Merged(nn.Flatten):
        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(nn.Linear(3, 3), Merged()).train()
    predict(model, torch.randn(2, 3), 0)
    assert not model[1].merged


def test_prediction_restores_the_model_when_it_fails(bayesian):
    model = copy.deepcopy(bayesian).train()
    with pytest.raises(RuntimeError):
        predict(model, torch.randn(3, 2, 12, 12), 2)
    assert model.training
    assert {layer.noise for layer in bayesian_layers(model)} == {Noise.OUTPUTS}


def test_members_are_samples_of_the_posterior():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    model[0].weight.data.copy_(torch.tensor([0.5, -0.5]).view(2, 1, 1, 1))
    make_bayesian(model, {1: StandardNormal(1)})
    model[0].posterior.log_variance.data.fill_(math.log(0.3))
    members = predict(model, torch.ones(1, 1, 1, 1), 2000)
    logit = (members[:, 0, 0] / members[:, 0, 1]).log().numpy()
    assert scipy.stats.kstest(logit, "norm", (1, math.sqrt(0.6))).pvalue > 1e-3


def test_set_noise_reaches_every_layer(bayesian):
    for noise in (Noise.NONE, Noise.WEIGHTS, Noise.OUTPUTS):
        set_noise(bayesian, noise)
        assert {layer.noise for layer in bayesian_layers(bayesian)} == {noise}
    assert layers.bayesian_layers(small_net()) == []
