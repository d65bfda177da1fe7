"""Bayesian convolutions of every kind: transposed ones, and those in one and three dimensions."""

import copy
import math
import pickle

import pytest
import torch
from matching_samples import FIVE, THREE, refused
from prior_helpers import seeded, vae
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call

import dwp
from dwp import Noise, init_, make_bayesian, predict, set_noise
from dwp.bayes.layers import BayesConv, BayesConv2d, BayesConvTranspose, bayesian_layers
from dwp.bayes.sampling import NetworkPosterior
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
    with torch.no_grad():
        mean = layer(x)
        squared = copy.deepcopy(layer)
        squared.weight.copy_(bayesian.posterior.log_variance.exp())
        squared.bias = None  # a bias has no variance
        variance = squared(x.square())
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
