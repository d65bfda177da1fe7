"""Small recurrent networks and sequences for the tests of layers and of smaller networks."""

import torch
from torch import nn

from dwp.bayes.recurrent import GROUPS, make_recurrent_bayesian
from dwp.nn.recurrent import RecurrentNetwork
from dwp.priors.log_uniform import LogUniform

WORDS, EMBEDDING, HIDDEN = 11, 5, 7


def plain(**options):
    """Return an LSTM network in double precision with random biases."""
    torch.manual_seed(0)
    network = RecurrentNetwork(WORDS, EMBEDDING, HIDDEN, WORDS, **options).double()
    for bias in (network.lstm.bias_ih_l0, network.lstm.bias_hh_l0):
        nn.init.normal_(bias)
    return network


def bayesian(groups=GROUPS, kind="normal_jeffreys", **options):
    """Return the Bayesian network of `plain`."""
    return make_recurrent_bayesian(plain(**options), LogUniform(1, "molchanov"), groups=groups, kind=kind)


def loud(model, variance=0.5):
    """Give every weight and scale a large variance."""
    for name, parameter in model.named_parameters():
        if name.endswith("log_variance"):
            parameter.data.fill_(variance).log_()
    return model


def sequences():
    """Return three sequences of six tokens."""
    return torch.randint(WORDS, (3, 6), generator=torch.Generator().manual_seed(1))
