"""Bayesian layers and networks shared by several tests."""

import copy

import torch
from network_samples import described
from torch import nn

from dwp.bayes.layers import BayesConv2d
from dwp.nn.convnet import build
from dwp.priors.standard_normal import StandardNormal

ERRORS = 4  # standard errors by which a Monte Carlo estimate may miss
PRIORS = {3: StandardNormal(3), 5: StandardNormal(5, scale=0.5)}

CONVOLUTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "stride": {"stride": 2, "padding": 1},
    "unequal": {"stride": (2, 1), "padding": (0, 2)},
    "same": {"padding": "same", "dilation": 2},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "same and circular": {"padding": "same", "padding_mode": "circular"},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate", "stride": 2},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "dilation": 2},
}


def layer_of(noisy=True, form="additive", prior=PRIORS[3], **arguments):
    """A Bayesian layer with 4 inputs, in double precision, and the convolution that it replaces."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 8 if arguments.get("groups") == 4 else 6, 3, **arguments).double()
    layer = BayesConv2d(convolution, prior, form)
    if noisy and form == "additive":
        layer.posterior.log_variance.data.normal_().sub_(3)
    return layer, convolution


@torch.no_grad()
def output_moments(bayesian, layer, x):
    """Mean and variance of the outputs of a Bayesian layer, by the layer that it replaces."""
    squared = copy.deepcopy(layer)
    squared.weight.copy_(bayesian.posterior.log_variance.exp())
    squared.bias = None  # a bias has no variance
    return layer(x), squared(x.square())


def images(n=2, channels=4, size=7):
    return torch.randn(
        n, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def small_net():
    torch.manual_seed(0)
    layers = [{"conv": 3, "kernel": 5, "pool": 2}, {"conv": 4, "kernel": 3}]
    return build(described(layers, batch_norm=True), (1, 12, 12), 5)
