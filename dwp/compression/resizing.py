"""Copies of layers with other numbers of channels."""

import copy
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from dwp.compression.channels import Layer


class LinearOfSome(nn.Linear):
    """A linear layer that uses some of its inputs.

    The others have been pruned, but are not removed from x: they are inputs of the network, or other layers
    use them.

    Args:
        inputs: indices of the inputs that it uses, [i].
        out_features: number of outputs.
        bias: whether it has a bias.
    """

    inputs: Tensor

    def __init__(self, inputs: Tensor, out_features: int, bias: bool = True) -> None:
        super().__init__(len(inputs), out_features, bias)
        self.register_buffer("inputs", inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., all inputs] to [..., o]."""
        return super().forward(x.index_select(-1, self.inputs))


def resized(layer: Layer, weight: Tensor, bias: Tensor | None, inputs: Tensor | None = None) -> nn.Module:
    """Return a copy of a convolution or linear layer with another weight and bias, of any number of channels.

    Args:
        layer: the layer.
        weight: [o, i, …].
        bias: [o], or None.
        inputs: indices of the inputs that a linear layer uses, [i]; None for all.
    """
    smaller: Layer
    if isinstance(layer, nn.Linear) and inputs is not None:
        smaller = LinearOfSome(inputs.to(weight.device), len(weight), bias is not None)
        smaller.train(layer.training)
    else:
        smaller = copy.deepcopy(layer)
        if isinstance(smaller, nn.Linear):
            smaller.out_features, smaller.in_features = weight.shape
        else:
            smaller.out_channels, smaller.in_channels = len(weight), weight.shape[1] * smaller.groups
    smaller.weight = nn.Parameter(weight.clone(), layer.weight.requires_grad)
    old = layer.bias
    smaller.bias = None if bias is None else nn.Parameter(bias.clone(), old is None or old.requires_grad)
    return smaller


def resized_norm(norm: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a batch normalisation with another state, of any number of channels."""
    smaller = cast(nn.BatchNorm2d, copy.deepcopy(norm))
    for name, value in state.items():
        old = smaller._parameters.get(name)
        setattr(
            smaller, name, value.clone() if old is None else nn.Parameter(value.clone(), old.requires_grad)
        )
    sizes = [len(value) for value in state.values() if value.ndim]
    smaller.num_features = max(sizes, default=smaller.num_features)
    return smaller


def replace(network: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Return the network with one module in place of another, wherever that is used."""
    if network is old:
        return new
    for name in [name for name, module in network.named_modules(remove_duplicate=False) if module is old]:
        network.set_submodule(name, new)
    return network
