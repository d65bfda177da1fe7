"""Bayesian convolutions of every kind: transposed ones, and those in one and three dimensions."""

import copy
import math

import pytest
import torch
from bayesian_samples import output_moments
from matching_samples import THREE
from prior_helpers import seeded, vae
from torch import nn
from torch.distributions import Normal, kl_divergence

import dwp
from dwp import Noise, init_, make_bayesian, set_noise
from dwp.bayes.layers import BayesConv2d
from dwp.compression.shrinking import masked
from dwp.nn.conv import ConvTranspose2d
from dwp.priors.standard_normal import StandardNormal

ONE = StandardNormal(1, scale=0.3)

TRANSPOSED = {
    "plain": {},
    "no bias": {"bias": False},
    "stride": {"stride": 2, "padding": 1, "output_padding": 1},
    "unequal": {"stride": (2, 3), "padding": (0, 1), "output_padding": (1, 2)},
    "dilation": {"dilation": 2, "padding": (1, 2)},
    "groups": {"groups": 2, "stride": 2},
    "depthwise": {"groups": 4, "dilation": (1, 2)},
    "all": {"groups": 2, "stride": 3, "padding": 1, "output_padding": 2, "dilation": 2, "bias": False},
}
LAYERS = {name: (nn.ConvTranspose2d, arguments) for name, arguments in TRANSPOSED.items()} | {
    "fast": (ConvTranspose2d, {}),
    "1d": (nn.Conv1d, {"stride": 2, "padding": 1, "groups": 2}),
    "1d, circular": (nn.Conv1d, {"padding": "same", "padding_mode": "circular", "dilation": 2}),
    "3d": (nn.Conv3d, {"padding": "same", "bias": False}),
    "3d, replicate": (nn.Conv3d, {"padding": (0, 1, 2), "padding_mode": "replicate", "stride": (1, 2, 2)}),
    "1d, transposed": (nn.ConvTranspose1d, {"stride": 2, "output_padding": 1, "groups": 2}),
    "3d, transposed": (nn.ConvTranspose3d, {"stride": (1, 2, 1), "groups": 4}),
}
EVERY = pytest.mark.parametrize(("cls", "arguments"), LAYERS.values(), ids=LAYERS)


def pair(cls=nn.ConvTranspose2d, prior=None, scales=None, **arguments):
    """A noisy Bayesian layer with 4 inputs, in double precision, and the layer that it replaces."""
    torch.manual_seed(0)
    layer = cls(4, 8 if arguments.get("groups") == 4 else 6, 3, **arguments).double()
    bayesian = make_bayesian(copy.deepcopy(layer), {"": prior or ONE}, scales=scales)
    bayesian.posterior.log_variance.data.normal_().sub_(3)
    return bayesian, layer


def inputs(layer, n=2):
    """Inputs of a layer, [n, 4, 4, ...], in double precision."""
    return torch.randn(n, 4, *(4 for _ in layer.kernel_size), dtype=torch.float64, generator=seeded(1))


# The layers


@EVERY
def test_without_noise_it_is_the_layer_that_it_replaces(cls, arguments):
    bayesian, layer = pair(cls, **arguments)
    x = inputs(layer)
    bayesian.noise = Noise.NONE
    for one in (x, x[0]):
        torch.testing.assert_close(bayesian(one), layer(one), rtol=1e-12, atol=1e-12)
    bayesian.posterior.log_variance.data.fill_(-80)
    for noise in (Noise.OUTPUTS, Noise.WEIGHTS):
        bayesian.noise = noise
        torch.testing.assert_close(bayesian(x), layer(x), rtol=1e-12, atol=1e-12)


@EVERY
def test_moments_of_the_outputs(cls, arguments):
    bayesian, layer = pair(cls, **arguments)
    x, number = inputs(layer), 1500
    mean, variance = output_moments(bayesian, layer, x)
    with torch.no_grad():
        for noise in (Noise.OUTPUTS, Noise.WEIGHTS):
            bayesian.noise = noise
            draws = torch.stack([bayesian(x) for _ in range(number)])
            # Outputs that no input reaches have no variance. The worst of up to thousands of the others.
            reached = variance > 1e-12
            z = (draws.mean(0) - mean)[reached] / (variance[reached] / number).sqrt()
            assert z.abs().max() < 5.5, noise
            relative = draws.var(0)[reached] / variance[reached]
            assert (relative - 1).abs().max() < 5.5 * math.sqrt(2 / number), noise
            torch.testing.assert_close(draws[0][~reached], mean[~reached], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("scales", [None, "normal_jeffreys"])
def test_an_output_size_can_be_given(noise, scales):
    bayesian, layer = pair(stride=3, scales=scales)
    bayesian.noise = noise
    x = inputs(layer)
    for size in ([12, 14], [14, 13], [2, 6, 13, 12]):
        assert bayesian(x, output_size=size).shape == layer(x, output_size=size).shape
    if noise is Noise.NONE:
        torch.testing.assert_close(bayesian(x, [13, 14]), layer(x, [13, 14]), rtol=1e-6, atol=1e-6)
    for one in (bayesian, layer):
        with pytest.raises(ValueError, match="requested an output size"):
            one(x, output_size=[40, 40])


@EVERY
def test_the_kl_is_that_of_independent_gaussians(cls, arguments):
    bayesian, _ = pair(cls, **arguments)
    mean, log_variance = bayesian.posterior.moments()
    prior = Normal(torch.tensor(0.0, dtype=torch.float64), ONE.scale)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum()
    torch.testing.assert_close(dwp.kl(bayesian), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["standard normal", "vae"])
def test_the_kl_is_that_of_the_same_kernels_in_a_convolution(kind, groups):
    prior = vae(3).double() if kind == "vae" else THREE
    bayesian, layer = pair(prior=prior, groups=groups)
    other = nn.Conv2d(6 // groups, 4, 3).double()
    other.weight.data.copy_(layer.weight)
    convolution = BayesConv2d(other, prior)
    convolution.posterior.log_variance.data.copy_(bayesian.posterior.log_variance)
    values = []
    for one in (bayesian, convolution):
        torch.manual_seed(2)
        values.append(dwp.kl(one))
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_are_seen_as_initialisation_draws_them(groups):
    layer, prior = nn.ConvTranspose2d(4, 6, 3, groups=groups), vae(3)
    init_(layer, prior, gain=None, generator=seeded())
    kernels = make_bayesian(layer, prior).posterior.kernels()
    assert kernels.mean.shape == (4 * 6 // groups, 1, 3, 3)
    assert torch.equal(kernels.mean, prior.sample(4 * 6 // groups, seeded()))


@pytest.mark.parametrize("form", ["point", "latent", "truncated_alpha"])
def test_other_forms(form):
    prior = vae(3) if form == "latent" else THREE
    model = make_bayesian(nn.ConvTranspose2d(2, 4, 3, stride=2, groups=2), prior, form)
    loss = model(torch.ones(2, 2, 4, 4), output_size=[10, 9]).square().mean() + dwp.kl(model)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Scales of output channels

SCALED = {name: LAYERS[name] for name in ("plain", "all", "depthwise", "1d", "3d", "1d, transposed")}


@pytest.mark.parametrize(("cls", "arguments"), SCALED.values(), ids=SCALED)
def test_scales_are_of_output_channels(cls, arguments):
    bayesian, layer = pair(cls, scales="normal_jeffreys", **arguments)
    x = inputs(layer, 1)
    bayesian.noise = Noise.NONE
    torch.testing.assert_close(bayesian(x), layer(x), rtol=1e-6, atol=1e-6)
    z = torch.arange(1.0, layer.out_channels + 1, dtype=torch.float64)
    bayesian.scales.mean.data.copy_(z)
    layer.weight.data.copy_(layer.weight * bayesian.by_group(z))
    torch.testing.assert_close(bayesian(x), layer(x), rtol=1e-12, atol=1e-12)
    # The product with its outputs, where they have no bias.
    bayesian.scales.mean.data.fill_(1)
    alone, bias = bayesian(x), 0
    if layer.bias is not None:
        bias = layer.bias.view(-1, *(1 for _ in layer.kernel_size))
    expected = (alone - bias) * z.view(-1, *(1 for _ in layer.kernel_size)) + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("cls", "arguments"), SCALED.values(), ids=SCALED)
def test_scaled_noise_of_outputs_and_of_weights_have_the_same_moments(cls, arguments):
    bayesian, layer = pair(cls, scales="normal_jeffreys", **arguments)
    bayesian.scales.log_variance.data.fill_(-2)
    x, number = inputs(layer, 1), 6000
    with torch.no_grad():
        outputs = bayesian(x.expand(number, *x.shape[1:]))
        bayesian.noise = Noise.WEIGHTS
        weights = torch.cat([bayesian(x) for _ in range(number)])
        mean = layer(x)[0]
    reached = weights.var(0) > 1e-12
    for draws in (outputs, weights):
        error = (draws.var(0) / number).sqrt()
        # The worst of up to a thousand outputs.
        assert ((draws.mean(0) - mean).abs() < 5.5 * error)[reached].all()
    ratio = (outputs.var(0) / weights.var(0))[reached].log()
    assert ratio.mean().abs() < 0.05
    assert (ratio.abs() < 0.4).all()


@EVERY
def test_the_masked_network_has_the_posterior_means(cls, arguments):
    bayesian, layer = pair(cls, **arguments)
    plain = masked(bayesian, weight_threshold=math.inf)[0]
    assert type(plain) is (cls if cls.__module__.startswith("torch") else nn.ConvTranspose2d)
    assert str(plain).replace(cls.__name__, "") == str(layer).replace(cls.__name__, "")
    torch.testing.assert_close(plain(inputs(layer)), layer(inputs(layer)), rtol=0, atol=0)


def test_pruned_channels_of_a_transposed_convolution_are_not_removed():
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3)]
    model = make_bayesian(nn.Sequential(*layers), THREE, scales="normal_jeffreys")
    x = torch.ones(2, 1, 6, 6)
    before = predict_means(model, x)
    small = dwp.shrink(model, threshold=0)
    torch.testing.assert_close(small(x), before)
    model[2].scales.mean.data[1] = 1e-6
    message = (
        "shrink: layer 2: 1 output channels are pruned, but those of a ConvTranspose2d cannot be removed; "
        "leave out the scales of this layer"
    )
    with pytest.raises(dwp.InputError, match=message):
        dwp.shrink(model, threshold=0)
    torch.testing.assert_close(dwp.shrink(model, {"0": 0.0})(x), predict_means(model, x))


def predict_means(model, x):
    """Return the outputs of the posterior mean."""
    set_noise(model, Noise.NONE)
    outputs = model(x).detach()
    set_noise(model, Noise.OUTPUTS)
    return outputs
