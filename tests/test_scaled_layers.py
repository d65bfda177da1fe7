"""Bayesian layers with multiplicative scales: moments, noise, conversion, bounded variances, training."""

import copy
import functools
import math

import pytest
import sparse_problem
import torch
from bayesian_samples import CONVOLUTIONS, PRIORS, images
from prior_helpers import vae
from torch import nn
from torch.nn.functional import cross_entropy

import dwp
from dwp import InputError, Noise, make_bayesian
from dwp.bayes import scales
from dwp.bayes.bayesian_layer import BayesConv2d, BayesLinear
from dwp.bayes.layers import bayesian_layers
from dwp.bayes.scales import Horseshoe, NormalJeffreys
from dwp.compression.masks import find_threshold
from dwp.priors.standard_normal import StandardNormal

ONE = StandardNormal(1, scale=0.5)
KINDS = pytest.mark.parametrize("kind", list(scales.KINDS))


def linear_of(kind, form="additive", prior=ONE):
    torch.manual_seed(1)
    return BayesLinear(nn.Linear(5, 3).double(), prior, form, kind)


def convolution_of(kind, form="additive", prior=PRIORS[3], **arguments):
    torch.manual_seed(1)
    outputs = 8 if arguments.get("groups") == 4 else 6
    return BayesConv2d(nn.Conv2d(4, outputs, 3, **arguments).double(), prior, form, kind)


def spread(layer):
    """Give a layer random posteriors."""
    torch.manual_seed(2)
    for name, parameter in layer.named_parameters():
        if "log_variance" in name:
            parameter.data.normal_(std=0.3).sub_(2)
    return layer


@KINDS
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (linear_of, torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))),
        (convolution_of, images(1, size=5)),
        (functools.partial(convolution_of, padding=1, groups=2), images(1, size=5)),
        (
            functools.partial(convolution_of, bias=False, padding="same", padding_mode="circular"),
            images(1, size=4),
        ),
    ],
    ids=["linear", "convolution", "groups", "circular"],
)
def test_noise_of_outputs_and_of_weights_have_the_same_moments(kind, layer, x):
    made = spread(layer(kind))
    number = 6000
    with torch.no_grad():
        outputs = made(x.repeat(number, *[1] * (x.ndim - 1))).unflatten(0, (number, len(x)))
        made.noise = Noise.WEIGHTS
        weights = torch.stack([made(x) for _ in range(number)])
        made.noise = Noise.NONE
        mean = made(x)
    for draws in (outputs, weights):
        error = (draws.var(0) / number).sqrt()
        # The worst of up to hundreds of outputs.
        assert ((draws.mean(0) - mean).abs() < 5 * error).all()
    ratio = outputs.var(0) / weights.var(0)
    assert (ratio.log().mean()).abs() < 0.05
    assert (ratio.log().abs() < 0.4).all()


@KINDS
@pytest.mark.parametrize("layer", [linear_of, convolution_of])
def test_moments_of_weights(kind, layer):
    made = spread(layer(kind))
    made.noise = Noise.WEIGHTS
    with torch.no_grad():
        draws = torch.stack([made.weight for _ in range(8000)])
        mean, variance = made.weight_moments()
        assert ((draws.mean(0) - mean).abs() < 5 * (variance / 8000).sqrt()).all()
        assert (draws.var(0) / variance).log().mean().abs() < 0.03
        made.noise = Noise.NONE
        torch.testing.assert_close(made.weight, mean)


@KINDS
@pytest.mark.parametrize("arguments", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_without_noise_a_convolution_is_what_it_was(kind, arguments):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 8 if arguments.get("groups") == 4 else 6, 3, **arguments).double()
    layer = BayesConv2d(convolution, PRIORS[3], "additive", kind)
    layer.noise = Noise.NONE
    torch.testing.assert_close(layer(images()), convolution(images()), rtol=1e-6, atol=1e-6)


def test_scales_are_drawn_for_each_image():
    layer = spread(convolution_of("normal_jeffreys"))
    layer.posterior.log_variance.data.fill_(-60)
    same = images(1).expand(3, -1, -1, -1)
    first, second, third = layer(same) - layer.bias[:, None, None]
    ratios = (first / second).flatten(1)
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), rtol=1e-6, atol=0)
    assert not torch.allclose(first, third)


# Conversion


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


@KINDS
@pytest.mark.parametrize("form", ["additive", "latent", "point", "truncated_alpha"])
def test_scales_go_with_the_deep_weight_prior(kind, form):
    model = network()
    layer = {"latent": {"5": None}}.get(form, {})
    make_bayesian(model, {3: vae(3), **layer}, form, default="standard_normal", scales=kind)
    first = bayesian_layers(model)[0]
    assert dwp.kl(model).item() != first.posterior.kl().item()
    x = torch.randn(5, 1, 8, 8)
    loss = model(x).square().mean() + dwp.kl(model) / 100
    loss.backward()
    assert loss.isfinite()
    for module in bayesian_layers(model):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.scales.parameters())
    members = dwp.predict(model, x, 3)
    assert not torch.equal(members[0], members[1])


def test_the_kl_is_the_sum_of_both():
    model = make_bayesian(network(), {}, default="standard_normal", scales="normal_jeffreys")
    expected = sum(layer.posterior.kl() + layer.scales.kl() for layer in bayesian_layers(model))
    assert dwp.kl(model).item() == pytest.approx(expected.item(), rel=1e-6)


def test_scales_by_layer_and_of_ones_own_settings():
    own = functools.partial(Horseshoe, global_scale=0.1)
    model = make_bayesian(network(), {}, default="standard_normal", scales={"0": own, "5": "normal_jeffreys"})
    first, second, last = bayesian_layers(model)
    assert repr(first.scales) == "Horseshoe(6, global_scale=0.1)"
    assert second.scales is None
    assert isinstance(last.scales, NormalJeffreys)
    assert (first.scales.groups, last.scales.groups) == (6, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": "jeffreys"}, "scales: 'jeffreys' is not known; use one of normal_jeffreys, horseshoe"),
        ({"scales": {"1": "horseshoe"}}, "scales: Bayesian layer: '1' is not known; use one of 0, 2, 5"),
        (
            {"scales": lambda groups: groups},
            "scales: a int is not Scales; give one of",
        ),
        (
            {"scales": lambda groups: Horseshoe(groups, 0.0)},
            "horseshoe: global_scale is 0.0; expected",
        ),
        ({"largest_variance": 0.0}, "largest_variance: it is 0.0; expected a number above 0"),
        (
            {"largest_variance": 0.1, "form": "truncated_alpha"},
            "posterior truncated_alpha: largest_vari",
        ),
        ({"largest_variance": {"x": 0.1}}, "largest_variance: Bayesian layer: 'x' is not known"),
    ],
)
def test_what_is_refused(options, message):
    model = network()
    before = copy.deepcopy(model)
    with pytest.raises(InputError) as error:
        make_bayesian(model, {}, default="standard_normal", **options)
    assert message in str(error.value)
    assert repr(model) == repr(before)


@KINDS
def test_a_frozen_weight_has_frozen_scales(kind):
    model = network()
    model[0].weight.requires_grad_(False)
    make_bayesian(model, {}, default="standard_normal", scales=kind)
    assert not any(p.requires_grad for p in model[0].scales.parameters())
    assert all(p.requires_grad for p in model[2].scales.parameters())


# Bounded variances


@pytest.mark.parametrize("limit", [0.04, 1e-6])
def test_variances_stay_below_their_bound(limit):
    model = make_bayesian(network(), {}, default="standard_normal", largest_variance={"0": limit})
    bounded, free = model[0].posterior, model[2].posterior
    start = bounded.moments()[1]
    torch.testing.assert_close(start, torch.full_like(start, min(-10, math.log(limit) - 1)))
    for posterior in (bounded, free):
        posterior.log_variance.data.fill_(20.0)
    assert (bounded.moments()[1].exp() <= limit * (1 + 1e-6)).all()
    assert (free.moments()[1] == 20).all()
    # A variance at its bound can leave it again.
    bounded.log_variance.data.fill_(math.log(limit) + 3)
    bounded.moments()[1].sum().backward()
    assert (bounded.log_variance.grad > 0.01).all()


# Training


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision(kind, dtype):
    model = make_bayesian(network().to(dtype), {}, default="standard_normal", scales=kind)
    loss = model(torch.randn(4, 1, 8, 8, dtype=dtype)).float().square().mean() + dwp.kl(model) / 1000
    loss.backward()
    assert loss.isfinite()
    assert all(p.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())


@KINDS
@pytest.mark.parametrize("dynamic", [False, True], ids=["static shapes", "dynamic shapes"])
def test_compiled_copied_and_loaded_models_are_the_same(kind, dynamic):
    model = make_bayesian(network(), {}, default="standard_normal", scales=kind)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(4, 1, 8, 8)
    torch.compiler.reset()  # what other tests have compiled counts towards the limit
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    cross_entropy(compiled(x), torch.tensor([0, 1, 0, 1])).backward()
    fresh = make_bayesian(network(), {}, default="standard_normal", scales=kind)
    fresh.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), fresh):
        assert torch.equal(dwp.predict(model, x, 2), dwp.predict(twin, x, 2))
    torch.func.functional_call(model, dict(model.named_parameters()), (x,)).sum().backward()
    dwp.set_noise(model, Noise.NONE)
    assert torch.equal(model(x), model(x))


@KINDS
def test_irrelevant_inputs_are_emptied(kind):
    model, _ = sparse_problem.trained(default=StandardNormal(1), scales=kind)
    rates = model[0].scales.log_dropout().detach()
    assert rates[:2].max() + 2 < rates[2:].min(), rates
    assert rates[:2].max() < find_threshold(rates) < rates[2:].min()
    assert dwp.shrink(model)[0].inputs.tolist() == [0, 1]
