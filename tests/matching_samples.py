"""A model, priors for its layers, and checks of initialisation and conversion, for tests of both."""

import copy

import pytest
import torch
from torch import nn

from dwp import InputError, init_, make_bayesian
from dwp.bayes.layers import BayesConv2d
from dwp.priors.standard_normal import StandardNormal

THREE, FIVE = StandardNormal(3), StandardNormal(5, scale=0.5)
BOTH = pytest.mark.parametrize("function", [init_, make_bayesian])


class Users(nn.Module):
    """A user's model: two 3×3 convolutions and a 5×5 one, one of them deeply nested."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.blocks = nn.ModuleDict(
            {"first": nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3)), "last": nn.ReLU()}
        )
        self.wide = nn.Conv2d(2, 2, 5)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.wide(self.blocks["first"](self.stem(x)))).flatten(1)


LAYERS = {"stem": (3, 3), "blocks.first.1": (3, 3), "wide": (5, 5)}


def refused(function, model, priors, message):
    """Assert that the function raises a one-line InputError and does not change the model."""
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    with pytest.raises(InputError, match=message) as caught:
        function(model, priors)
    assert "\n" not in str(caught.value)
    assert list(model.modules()) == modules
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def touched(function, model, priors):
    """Return the names of the layers that the function initialised or converted."""
    before = {name: model.get_submodule(name).weight.clone() for name in LAYERS}
    result = function(model, priors)
    if function is make_bayesian:
        assert result is model
        return {name for name in LAYERS if isinstance(model.get_submodule(name), BayesConv2d)}
    changed = {name for name in LAYERS if not torch.equal(model.get_submodule(name).weight, before[name])}
    assert set(result.changed) == changed
    return changed
