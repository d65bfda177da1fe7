"""Multilayer perceptrons."""

from torch import nn


def perceptron(inputs: int, hidden: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    """Return a network with two hidden layers, [n, inputs] to [n, outputs]; `activation` has no weights."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, activation, second, activation, nn.Linear(hidden, outputs))
