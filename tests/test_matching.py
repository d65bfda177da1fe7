"""The prior of each convolution in initialisation and conversion."""

import pytest
import torch
from matching_samples import BOTH, FIVE, THREE, Users, refused, touched
from torch import nn

from dwp import Noise, init_, make_bayesian, predict, set_noise
from dwp.bayes.layers import BayesConv2d, bayesian_layers
from dwp.priors.standard_normal import StandardNormal

# Choice of the prior


@BOTH
@pytest.mark.parametrize(
    ("priors", "expected"),
    [
        ([THREE, FIVE], {"stem", "blocks.first.1", "wide"}),
        ((THREE, FIVE), {"stem", "blocks.first.1", "wide"}),
        (nn.ModuleList([THREE, FIVE]), {"stem", "blocks.first.1", "wide"}),
        ({3: THREE, 5: FIVE}, {"stem", "blocks.first.1", "wide"}),
        ({3: THREE, "wide": FIVE}, {"stem", "blocks.first.1", "wide"}),
        ({3: None, 5: FIVE}, {"wide"}),
        ({3: THREE, 5: None}, {"stem", "blocks.first.1"}),
        ({3: THREE, "stem": None, "wide": None}, {"blocks.first.1"}),
        ({3: None, "stem": THREE, 5: None}, {"stem"}),
    ],
)
def test_priors_by_kernel_size_or_layer_name(function, priors, expected):
    assert touched(function, Users(), priors) == expected


@BOTH
@pytest.mark.parametrize("iterator", [False, True])
def test_a_single_prior_is_for_all_layers_of_its_size(function, iterator):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    result = function(model, iter([THREE]) if iterator else THREE)
    assert result.changed == ["0", "1"] if function is init_ else len(bayesian_layers(model)) == 2


def test_each_layer_is_drawn_from_its_own_prior():
    model = nn.Sequential(nn.Conv2d(20, 50, 3), nn.Conv2d(50, 20, 3), nn.ConvTranspose2d(20, 50, 3))
    init_(model, {3: StandardNormal(3, scale=5.0), "1": StandardNormal(3, scale=0.01)}, gain=None)
    assert [layer.weight.std().item() for layer in model] == pytest.approx([5, 0.01, 5], rel=0.1)


@BOTH
def test_layers_without_a_prior_and_priors_without_a_layer_are_left_alone(function):
    assert touched(function, Users(), [FIVE, StandardNormal(7)]) == {"wide"}
    assert touched(function, Users(), {5: FIVE, 4: None}) == {"wide"}
    for nothing in ([], {5: None}, {3: None, 5: None}):
        refused(
            function, Users(), nothing, "priors: no layer of the model has one; there is nothing left to do"
        )


@BOTH
@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"stemm": THREE, 3: THREE, 5: FIVE}, r"priors\['stemm'\]: .*; the nearest is 'stem'"),
        ({"blocks.fist.1": None, 3: THREE, 5: FIVE}, r"priors\['blocks.fist.1'\]: .* 'blocks.first.1'"),
        (
            {"norm": THREE, 3: THREE},
            r"priors\['norm'\]: the model has no convolution or linear layer of this",
        ),
        ({7: StandardNormal(7)}, "the model has no 7×7 convolution for this prior; it has 3×3, 5×5"),
        ([StandardNormal(4), StandardNormal(7)], "no 4×4 convolution"),
        ([THREE, FIVE, StandardNormal(3)], "two priors over 3×3 kernels; give one"),
        ({3: FIVE, 5: FIVE}, "layer stem: its kernels are 3×3, its prior is over 5×5"),
        ({3: THREE, "wide": THREE}, "layer wide: its kernels are 5×5, its prior is over 3×3"),
        ({(3, 3): THREE, 5: FIVE}, r"priors\[\(3, 3\)\]: .* tuple; .* kernel size .* or the name of a layer"),
        ({3: "vae", 5: FIVE}, r"priors\[3\]: .* str"),
        ({3: THREE, 5: StandardNormal}, r"priors\[5\]: .* type"),
        ([THREE, "vae-5x5.safetensors"], "priors: .* str"),
        ("vae-5x5.safetensors", "priors: .* str"),
        (5, "priors: .* int"),
        (None, "priors: .* NoneType"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(function, priors, message):
    refused(function, Users(), priors, message)


@BOTH
def test_a_model_without_convolutions_is_refused(function):
    refused(
        function, nn.Sequential(nn.Linear(3, 3), nn.Conv1d(1, 1, 3)), THREE, "convolutions .*; it has none"
    )


def test_names_of_a_single_layer():
    refused(
        make_bayesian, nn.Conv2d(1, 1, 5), {"": THREE}, "^the model itself: its kernels are 5×5, its prior"
    )
    assert init_(nn.Conv2d(1, 1, 3), THREE).changed == [""]


@BOTH
def test_a_transposed_convolution_has_the_prior_of_its_kernel_size(function):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 5))
    result = function(model, {3: THREE, "1": THREE})
    report = result if function is init_ else result.prior_report
    assert report.changed == ["0", "1"]


# Tied layers


def test_a_layer_at_several_places_stays_one_layer():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    shared = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())
    model = nn.Sequential(layer, layer, nn.ModuleDict({"again": layer}), shared, shared)
    run = nn.Sequential(*[model[i] for i in (0, 1, 3, 4)]).eval()
    x = torch.randn(2, 2, 6, 6)
    before = run(x)
    make_bayesian(model, THREE)
    assert model[0] is model[1] is model[2]["again"]
    assert model[3] is model[4]
    assert len(bayesian_layers(model)) == 2
    assert not any(isinstance(module, nn.Conv2d) for module in model.modules())
    set_noise(model, Noise.NONE)
    run = nn.Sequential(*[model[i] for i in (0, 1, 3, 4)])
    torch.testing.assert_close(run(x), before)


def test_an_attribute_that_is_assigned_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 1, 3)
            self.second = self.first

    model = make_bayesian(Twice(), {"second": THREE})
    assert isinstance(model.first, BayesConv2d)
    assert model.first is model.second
    refused(
        make_bayesian,
        Twice(),
        {"first": THREE, "second": None},
        "first and second are one layer; .* one prior",
    )
    assert init_(Twice(), THREE).changed == ["first"]


@BOTH
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_a_parameter_of_several_layers_is_refused(function, parameter):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 3)))
    setattr(model[1][0], parameter, getattr(model[0], parameter))
    if function is init_ and parameter == "bias":
        assert init_(model, THREE).changed == ["0", "1.0"]
    else:
        refused(
            function, model, THREE, rf"layer 0: its {parameter} is also that of layer 1\.0; give each its own"
        )


def test_modes_and_frozen_parameters_are_kept():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model[0].eval()
    make_bayesian(model, THREE)
    assert [layer.training for layer in model] == [False, True]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"0.bias", "1.posterior.mean", "1.posterior.log_variance"}


def test_a_converted_model_predicts():
    probabilities = predict(make_bayesian(Users(), [THREE, FIVE]), torch.randn(3, 1, 10, 10), 2)
    assert probabilities.shape == (2, 3, 8)
