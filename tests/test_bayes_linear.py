"""Bayesian linear layers, and priors over single weights for layers of any shape."""

import copy
import math

import pytest
import torch
from bayesian_samples import ERRORS
from matching_samples import BOTH, FIVE, THREE, refused
from prior_helpers import seeded, vae
from torch import nn
from torch.distributions import Normal, kl_divergence

import dwp
from dwp import Noise, init_, make_bayesian, predict, set_noise
from dwp.bayes import layers
from dwp.bayes.layers import BayesConv2d, BayesLinear, bayesian_layers
from dwp.bayes.prior_choice import fan_in
from dwp.priors.base import Prior
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal

ONE = StandardNormal(1, scale=0.3)


def linear_of(**arguments):
    """A noisy Bayesian layer [5 to 3], in double precision, and the linear layer that it replaces."""
    torch.manual_seed(0)
    linear = nn.Linear(5, 3, **arguments).double()
    layer = BayesLinear(linear, ONE)
    layer.posterior.log_variance.data.normal_().sub_(2)
    return layer, linear


class Mixed(nn.Module):
    """A 3×3, a 1×1, a depthwise oblong and a 5×5 convolution with a hole, then two linear layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.point = nn.Conv2d(4, 6, 1)
        self.oblong = nn.Conv2d(6, 6, (1, 3), groups=6)
        self.wide = nn.Conv2d(6, 2, 5, dilation=2, padding=4)
        self.hidden = nn.Linear(2 * 8 * 6, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        x = self.wide(self.oblong(self.point(self.stem(x)).relu()))
        return self.head(self.hidden(x.flatten(1)).relu())


def kinds(model):
    """Return the kind of prior of each Bayesian layer of a model."""
    return {
        name: (layer.posterior.prior.kind, layer.posterior.prior.kernel_size)
        for name, layer in model.named_modules()
        if isinstance(layer, BayesConv2d | BayesLinear)
    }


# The layer


@pytest.mark.parametrize("arguments", [{}, {"bias": False}])
def test_without_noise_it_is_the_linear_layer_that_it_replaces(arguments):
    layer, linear = linear_of(**arguments)
    layer.noise = Noise.NONE
    for shape in ((4, 5), (2, 6, 5), (5,)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(layer(x), linear(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_moments_of_the_outputs(shape):
    layer, linear = linear_of()
    x = torch.randn(shape, dtype=torch.float64, generator=seeded(1))
    with torch.no_grad():
        mean, variance = linear(x), x.square() @ layer.posterior.log_variance.exp().T
        for noise in (Noise.OUTPUTS, Noise.WEIGHTS):
            layer.noise = noise
            draws = torch.stack([layer(x) for _ in range(4000)])
            # The worst of eighteen outputs: five standard errors.
            assert ((draws.mean(0) - mean) / (variance / 4000).sqrt()).abs().max() < 5, noise
            assert (draws.var(0) / variance - 1).abs().max() < 5 * math.sqrt(2 / 4000), noise


def test_outputs_are_noisy_one_by_one_and_weights_for_all_rows():
    layer, _ = linear_of()
    x = torch.ones(2, 5, dtype=torch.float64)
    assert not torch.equal(*layer(x))
    layer.noise = Noise.WEIGHTS
    torch.testing.assert_close(*layer(x), rtol=1e-12, atol=1e-12)
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(4, 6, (2, 3), groups=2), nn.Conv2d(2, 3, 3)])
def test_kl_of_weights_of_any_shape_is_that_of_independent_gaussians(layer):
    model = make_bayesian(nn.Sequential(layer).double(), {"0": ONE})
    mean, log_variance = model[0].posterior.moments()
    log_variance.data.normal_()
    q = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(q, Normal(torch.tensor(0.0, dtype=torch.float64), ONE.scale)).sum()
    torch.testing.assert_close(dwp.kl(model), expected, rtol=1e-12, atol=0)
    kernels = model[0].posterior.kernels()
    assert kernels.mean.shape == (layer.weight.numel(), 1, 1, 1)
    assert torch.equal(kernels.mean.flatten(), layer.weight.flatten())


def test_a_subset_of_the_weights_gives_an_unbiased_kl():
    class Estimated(StandardNormal):
        kl = Prior.kl

    layer, _ = linear_of()
    with torch.no_grad():
        exact = layer.kl()
        layer.posterior.__dict__["prior"] = Estimated(1, scale=ONE.scale)
        draws = torch.stack([layer.kl(dwp.KLEstimator(subset=4)) for _ in range(4000)])
    assert (draws.mean() - exact).abs() < ERRORS * draws.std() / math.sqrt(len(draws))


@pytest.mark.parametrize(
    ("form", "prior"),
    [("truncated_alpha", LogUniform(1)), ("point", ONE), ("additive", LogUniform(1, "molchanov"))],
)
def test_other_forms(form, prior):
    model = make_bayesian(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), [], form, default=prior)
    loss = model(torch.randn(6, 5)).square().mean() + dwp.kl(model)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_model_may_use_the_weight_itself():
    attention = nn.MultiheadAttention(8, 2).double().eval()
    x = torch.randn(5, 3, 8, dtype=torch.float64)
    before = attention(x, x, x)[0]
    make_bayesian(attention, [], default="standard_normal")
    assert isinstance(attention.out_proj, BayesLinear)
    first, second = (attention(x, x, x)[0] for _ in range(2))
    assert not torch.equal(first, second)
    set_noise(attention, Noise.NONE)
    torch.testing.assert_close(attention(x, x, x)[0], before)


# Conversion, initialisation


def test_a_linear_layer_gets_a_prior_by_its_name_or_by_default_only():
    single = StandardNormal(1)
    given = {"point": 1, "stem": 3}
    assert kinds(make_bayesian(Mixed(), [single, THREE])) == {
        n: ("standard_normal", k) for n, k in given.items()
    }
    given = kinds(
        make_bayesian(Mixed(), {3: vae(3), "head": LogUniform(1, "molchanov"), "point": None}, default=ONE)
    )
    assert given == {
        "stem": ("vae", 3),
        "oblong": ("standard_normal", 1),
        "wide": ("standard_normal", 1),
        "hidden": ("standard_normal", 1),
        "head": ("log_uniform", 1),
    }


def test_without_a_default_layers_stay_as_they_are():
    model = make_bayesian(Mixed(), vae(3))
    assert kinds(model) == {"stem": ("vae", 3)}
    assert isinstance(model.head, nn.Linear)


def test_the_standard_normal_default_has_the_scale_of_the_fan_in():
    model = make_bayesian(Mixed(), FIVE, default="standard_normal")
    scales = {name: layer.posterior.prior.scale for name, layer in model.named_children()}
    expected = {"stem": 9, "point": 4, "oblong": 3, "hidden": 96, "head": 7}
    assert scales == pytest.approx({name: n**-0.5 for name, n in expected.items()} | {"wide": FIVE.scale})


def test_a_default_may_depend_on_the_layer():
    def default(layer):
        return StandardNormal(1, scale=fan_in(layer)) if isinstance(layer, nn.Linear) else None

    model = make_bayesian(Mixed(), THREE, default=default)
    assert set(kinds(model)) == {"stem", "hidden", "head"}
    assert model.head.posterior.prior.scale == 7


def test_initialisation_takes_the_default_too():
    torch.manual_seed(0)
    model = nn.ModuleList(
        [nn.Conv2d(30, 40, 3), nn.ConvTranspose2d(30, 40, (2, 3)), nn.Linear(50, 60), nn.Conv1d(40, 30, 5)]
    )
    init_(model, THREE, default="standard_normal", gain=None, generator=seeded())
    deviations = [layer.weight.std().item() for layer in model]
    assert deviations == pytest.approx([1, 180**-0.5, 50**-0.5, 200**-0.5], rel=0.06)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(6, 4, (3, 5), groups=2), 45),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), 27),
        (nn.Conv1d(6, 4, 3), 18),
        (nn.Linear(6, 4), 6),
    ],
)
def test_fan_in(layer, expected):
    assert fan_in(layer) == expected


@BOTH
@pytest.mark.parametrize(
    ("priors", "default", "message"),
    [
        (
            {"head": THREE},
            None,
            "layer head: it is linear and has no kernels, its prior is over 3×3; give one over",
        ),
        ({}, FIVE, "layer stem: its kernels are 3×3, its prior is over 5×5"),
        ({"hed": ONE}, None, r"priors\['hed'\]: .* linear layer of this name; the nearest is 'head'"),
        (THREE, "normal", "default: 'normal' is not known; use one of standard_normal"),
        (THREE, StandardNormal, "default: a type is not a prior"),
        (THREE, 3, "default: a int is not a prior"),
        (THREE, lambda layer: 3, "default of layer point: a int is not a prior"),
        (
            [StandardNormal(7)],
            None,
            "the model has no 7×7 convolution for this prior; it has 1×1, 1×3, 3×3, 5×5",
        ),
    ],
)
def test_what_is_refused(function, priors, default, message):
    refused(lambda model, given: function(model, given, default=default), Mixed(), priors, message)


def test_linear_layers_whose_forward_is_overridden_are_refused():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(2, 2), Doubled(2, 2))
    refused(
        make_bayesian,
        model,
        {"0": ONE, "1": ONE},
        "layer 1: a Doubled computes something else than nn.Linear",
    )


def test_a_converted_model_trains_predicts_copies_and_loads():
    torch.manual_seed(0)
    model = make_bayesian(Mixed(), [vae(3), FIVE], default="standard_normal")
    x = torch.randn(4, 1, 10, 10)
    (model(x).square().mean() + dwp.kl(model)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    twin = copy.deepcopy(model)
    fresh = make_bayesian(Mixed(), [vae(3), FIVE], default="standard_normal")
    fresh.load_state_dict(model.state_dict())
    expected = predict(model, x, 3)
    assert not torch.equal(expected[0], expected[1])
    for other in (twin, fresh):
        assert torch.equal(predict(other, x, 3), expected)
        assert len(bayesian_layers(other)) == len(layers.priors(other)) == 6
    set_noise(model, Noise.NONE)
    assert torch.equal(model(x), model(x))
    assert model.head.bias.requires_grad
