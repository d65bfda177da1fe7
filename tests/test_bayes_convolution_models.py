"""Models with Bayesian convolutions of every kind: conversion, training, copies, sampling."""

import copy
import pickle

import pytest
import torch
from matching_samples import FIVE, THREE, refused
from prior_helpers import seeded, vae
from torch import nn
from torch.func import functional_call

import dwp
from dwp import Noise, make_bayesian, predict, set_noise
from dwp.bayes.layers import BayesConv, BayesConvTranspose, bayesian_layers
from dwp.bayes.sampling import NetworkPosterior
from dwp.priors.standard_normal import StandardNormal

ONE = StandardNormal(1, scale=0.3)


def autoencoder():
    """An autoencoder of images of 7×7 pixels, whose decoder needs an output size."""

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, stride=2)
            self.line = nn.Conv1d(4, 4, 3, padding=1)
            self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2)
            self.out = nn.ConvTranspose2d(4, 1, 3, padding=1)

        def forward(self, x):
            code = self.conv(x).relu()
            code = self.line(code.flatten(2)).view_as(code)
            return self.out(self.up(code, output_size=[7, 7]).relu())

    torch.manual_seed(0)
    return Autoencoder()


def bayesian_autoencoder():
    return make_bayesian(autoencoder(), vae(3), default="standard_normal")


# Conversion


def test_conversion_covers_every_kind_of_convolution():
    model = nn.ModuleDict(
        {
            "up": nn.ConvTranspose2d(2, 4, 3, groups=2),
            "oblong": nn.ConvTranspose2d(2, 4, (3, 1)),
            "line": nn.Conv1d(2, 2, 3),
            "volume": nn.Conv3d(2, 2, 3),
            "raise": nn.ConvTranspose3d(2, 2, 3),
            "wide": nn.ConvTranspose2d(1, 1, 5),
        }
    )
    make_bayesian(model, {3: THREE, "line": ONE, "wide": FIVE, "raise": None}, default="standard_normal")
    assert {name: type(module) for name, module in model.items()} == {
        "up": BayesConvTranspose,
        "oblong": BayesConvTranspose,
        "line": BayesConv,
        "volume": BayesConv,
        "raise": nn.ConvTranspose3d,
        "wide": BayesConvTranspose,
    }
    assert [(row.name, row.kind, row.shape, row.prior, row.reason) for row in model.prior_report] == [
        ("up", "ConvTranspose2d", (2, 2, 3, 3), "standard_normal 3×3", ""),
        ("oblong", "ConvTranspose2d", (2, 4, 3, 1), "standard_normal 1×1", ""),
        ("line", "Conv1d", (2, 2, 3), "standard_normal 1×1", ""),
        ("volume", "Conv3d", (2, 2, 3, 3, 3), "standard_normal 1×1", ""),
        ("raise", "ConvTranspose3d", (2, 2, 3, 3, 3), "", "None is given for raise"),
        ("wide", "ConvTranspose2d", (1, 1, 5, 5), "standard_normal 5×5", ""),
    ]
    # The number of weights that an output sums over, for a stride of 1.
    assert model["oblong"].posterior.prior.scale == pytest.approx(6**-0.5)
    assert model["volume"].posterior.prior.scale == pytest.approx(54**-0.5)


def test_without_a_default_one_dimension_and_three_stay_as_they_are():
    model = nn.Sequential(nn.ConvTranspose2d(1, 1, 3), nn.Conv1d(1, 1, 3), nn.ConvTranspose3d(1, 1, 3))
    make_bayesian(model, THREE)
    assert [type(one) for one in model] == [BayesConvTranspose, nn.Conv1d, nn.ConvTranspose3d]
    reasons = [row.reason for row in model.prior_report]
    assert reasons == ["", *(f"no prior over {k} kernels, and no default" for k in ("3", "3×3×3"))]


@pytest.mark.parametrize("cls", [nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d])
def test_a_prior_over_images_is_not_for_one_dimension_or_three(cls):
    kernels = "3×3×3" if cls is nn.Conv3d else "3"
    message = f"layer 0: its kernels are {kernels}, its prior is over 3×3; give one over kernels of its size"
    refused(make_bayesian, nn.Sequential(cls(1, 1, 3)), {"0": THREE}, message)


class Cropped(nn.ConvTranspose2d):
    """A transposed convolution that overrides `forward`."""

    def forward(self, x, output_size=None):
        return super().forward(x, output_size)[..., 1:-1, 1:-1]


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution that overrides a method that `forward` calls."""

    def _output_padding(self, *arguments):
        return [1, 1]


@pytest.mark.parametrize("cls", [Cropped, Doubling])
def test_transposed_convolutions_that_compute_something_else_are_refused(cls):
    message = f"layer 0: a {cls.__name__} computes something else than nn.ConvTranspose2d"
    refused(make_bayesian, nn.Sequential(cls(1, 1, 3, stride=2)), {"0": THREE}, message)


# Models


def test_an_autoencoder_trains_for_twenty_steps():
    model, x = bayesian_autoencoder(), torch.rand(32, 1, 7, 7, generator=seeded(1)).round()
    assert len(bayesian_layers(model)) == 4
    before = copy.deepcopy(model.state_dict())
    torch.compiler.reset()  # what other tests have compiled counts towards the limit
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for step in range(20):
        # Half of the steps compiled.
        outputs = (compiled if step % 2 else model)(x)
        loss = (outputs - x).square().mean() + dwp.kl(model) / 50_000
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    assert losses.isfinite().all()
    assert losses[-4:].mean() < 0.9 * losses[:2].mean()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copied_and_loaded_models_are_the_same():
    model, x = bayesian_autoencoder(), torch.rand(3, 1, 7, 7)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    fresh = bayesian_autoencoder()
    fresh.load_state_dict(model.state_dict())
    classify = [nn.Sequential(one, nn.Flatten()) for one in (model, copy.deepcopy(model), fresh)]
    expected = predict(classify[0], x, 3)
    assert not torch.equal(*expected[:2])
    for twin in classify[1:]:
        assert torch.equal(predict(twin, x, 3), expected)
    layer = pickle.loads(pickle.dumps(model.up))
    layer.noise = model.up.noise = Noise.NONE
    assert torch.equal(layer(torch.ones(1, 4, 3, 3)), model.up(torch.ones(1, 4, 3, 3)))


def test_functional_call_and_gradients():
    model, x = bayesian_autoencoder().double(), torch.rand(2, 1, 7, 7, dtype=torch.float64)
    set_noise(model, Noise.NONE)
    doubled = {name: 2 * value.detach() for name, value in model.named_parameters()}
    twin = bayesian_autoencoder().double()
    twin.load_state_dict(doubled)
    set_noise(twin, Noise.NONE)
    assert torch.equal(functional_call(model, doubled, (x,)), twin(x))
    grads = torch.func.grad(lambda p: functional_call(model, p, (x,)).square().sum())(doubled)
    assert all(grads[f"{name}.posterior.mean"].any() for name in ("conv", "line", "up", "out"))


def test_sampling_gives_every_kind_of_convolution_its_prior():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3), nn.Flatten(2), nn.Conv1d(2, 2, 3), nn.Flatten()
    )
    model.append(nn.Linear(2 * 34, 2))
    x, y = torch.randn(8, 1, 6, 6), torch.arange(8) % 2
    posterior = NetworkPosterior(model, THREE, x, y, default="standard_normal")
    assert set(posterior.coordinates) == {f"{i}.weight" for i in (0, 1, 3, 5)}
    start = posterior.parameters(posterior.start())
    for name, value in model.named_parameters():
        torch.testing.assert_close(start[name], value)
    samples = dwp.sample_posterior(model, THREE, x, y, steps=20)
    assert samples.predict(x).shape == (len(samples), 8, 2)
