"""Layers that initialisation and conversion refuse, since they would lose something."""

import copy
from functools import partial

import pytest
import torch
from matching_samples import BOTH, FIVE, THREE, Users, refused
from prior_helpers import vae
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from dwp import InputError, init_, make_bayesian
from dwp.bayes.layers import BayesConv2d, bayesian_layers
from dwp.nn.conv import Conv2d


@BOTH
@pytest.mark.parametrize(
    ("change", "remover"),
    [
        (weight_norm, "torch.nn.utils.remove_weight_norm"),
        (spectral_norm, "torch.nn.utils.remove_spectral_norm"),
        (parametrizations.weight_norm, "torch.nn.utils.parametrize.remove_parametrizations"),
        (parametrizations.spectral_norm, "torch.nn.utils.parametrize.remove_parametrizations"),
        (partial(prune.l1_unstructured, name="weight", amount=0.5), "torch.nn.utils.prune.remove"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_are_computed_are_refused(function, change, remover):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 3)))
    change(model[1][0])
    message = rf"layer 1\.0: its weight is computed from other tensors; call {remover} on it first"
    refused(function, model, THREE, message)
    assert touched_only(function, model, {3: THREE, "1.0": None})


def touched_only(function, model, priors):
    result = function(model, priors)
    return result.changed == ["0"] if function is init_ else len(bayesian_layers(model)) == 1


def test_a_bias_that_is_computed_is_refused_where_it_matters():
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    prune.l1_unstructured(model[0], "bias", 2)
    refused(make_bayesian, model, THREE, r"layer 0: its bias is computed .* torch.nn.utils.prune.remove")
    assert init_(model, THREE).changed == ["0"]


@BOTH
def test_lazy_layers_are_refused(function):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LazyConv2d(2, 3))
    with pytest.raises(InputError, match=r"layer 1: its weight has no shape yet; run a batch .* first"):
        function(model, THREE)
    assert isinstance(model[0], nn.Conv2d)
    model(torch.zeros(1, 1, 8, 8))
    function(model, THREE)


def test_weights_without_values_cannot_be_filled():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(InputError, match="layer 0: its weight is on the device meta"):
        init_(model, THREE)


class Standardised(nn.Conv2d):
    """A convolution that overrides `forward`."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Causal(nn.Conv2d):
    """A convolution that overrides a method that `forward` calls."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.tril(), bias)


class Named(nn.Conv2d):
    """A subclass that overrides nothing."""


@pytest.mark.parametrize("cls", [Standardised, Causal])
def test_convolutions_with_a_forward_of_their_own_are_not_converted(cls):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), cls(1, 1, 3))
    message = f"a {cls.__name__} computes something else than nn.Conv2d"
    refused(make_bayesian, model, {"0": THREE, "1": THREE}, f"layer 1: {message}.*; leave it as it is")
    assert init_(model, THREE).changed == ["0", "1"]
    assert isinstance(make_bayesian(model, THREE, default="standard_normal")[1], cls)
    first, second = model.prior_report
    assert (first.prior, first.reason, second.prior) == ("standard_normal 3×3", "", "")
    assert message in second.reason


def test_a_forward_that_was_replaced_is_not_lost():
    model = nn.Sequential(nn.Conv2d(1, 1, 3))
    forward = model[0].forward
    model[0].forward = lambda x: 2 * forward(x)
    refused(make_bayesian, model, {"0": THREE}, "layer 0: a Conv2d computes something else than nn.Conv2d")


@pytest.mark.parametrize("cls", [Named, Conv2d])
def test_subclasses_that_compute_the_same_are_converted(cls):
    assert isinstance(make_bayesian(nn.Sequential(cls(1, 1, 3)), THREE)[0], BayesConv2d)


def test_hooks_are_not_lost():
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        model = nn.Sequential(nn.Conv2d(1, 1, 3))
        handle = getattr(model[0], register)(print)
        refused(make_bayesian, model, THREE, "layer 0: it has hooks, .* would lose; remove them")
        handle.remove()
        make_bayesian(model, THREE)


# Models that are Bayesian already


@BOTH
def test_bayesian_models_are_refused(function):
    model = make_bayesian(Users(), {3: THREE, 5: None})
    refused(
        function, model, FIVE, "layer stem is Bayesian already; initialise a model, then convert it, once"
    )
    with pytest.raises(InputError, match="the model itself is Bayesian already"):
        function(make_bayesian(nn.Conv2d(1, 1, 3), THREE), THREE)


@BOTH
def test_priors_inside_a_model_are_no_part_of_it(function):
    model = nn.ModuleDict({"layer": nn.Conv2d(1, 1, 3), "prior": vae(5)})
    before = copy.deepcopy(model["prior"].state_dict())
    function(model, THREE)
    assert [
        name for name, tensor in model["prior"].state_dict().items() if not torch.equal(tensor, before[name])
    ] == []
    assert not bayesian_layers(model["prior"])


# Attributes that conversion keeps
