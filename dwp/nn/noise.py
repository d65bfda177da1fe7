"""Layers whose randomness is switched apart from train() and eval()."""

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum

import torch
from torch import Tensor, nn


class Noise(Enum):
    """Where the randomness of a stochastic layer enters."""

    OUTPUTS = "outputs"
    """Each image has noise of its own (local reparameterisation, dropout as usual). For training."""
    WEIGHTS = "weights"
    """One sample of the weights, or of the units left out, for all images. For the members of an ensemble."""
    NONE = "none"
    """No noise: the posterior mean of the weights, all units."""


class Stochastic(nn.Module):
    """A layer with a `noise` switch."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise.OUTPUTS
        # Inside a list, where PyTorch does not take a parameter for one of the layer's own.
        self.held: list[Tensor] | None = None

    def sample_once(self, draw: Callable[[], Tensor]) -> Tensor:
        """Return `draw()`; within `holding`, what it gave there first."""
        if self.held is None:
            return draw()
        if not self.held:
            self.held.append(draw())
        return self.held[0]


class Dropout(Stochastic):
    """Leave out whole channels (or units) with probability `rate`; at test a sample of MC dropout.

    With one mask for all images this is a sample of the weights that follow
    (Gal and Ghahramani 2016), as a member of an ensemble should be.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, c, h, w] or [n, c] to the same shape, its kept channels scaled by 1 / (1 - rate)."""
        if self.noise is Noise.NONE or self.rate == 0:
            return x
        if self.noise is Noise.OUTPUTS:
            kept = self._mask(len(x), x)
        else:
            kept = self.sample_once(lambda: self._mask(1, x))
        return x * kept / (1 - self.rate)

    def _mask(self, images: int, x: Tensor) -> Tensor:
        return torch.rand((images, x.shape[1], *[1] * (x.ndim - 2)), device=x.device) >= self.rate

    def extra_repr(self) -> str:
        """Show the rate in the module's repr."""
        return f"rate={self.rate:g}"


def stochastic_layers(model: nn.Module) -> list[Stochastic]:
    """Return the stochastic layers of a model."""
    return [module for module in model.modules() if isinstance(module, Stochastic)]


def set_noise(model: nn.Module, noise: Noise) -> None:
    """Choose where the randomness of every stochastic layer enters."""
    for layer in stochastic_layers(model):
        layer.noise = noise


@contextlib.contextmanager
def fixed_weight_sample(model: nn.Module) -> Iterator[None]:
    """Within, every stochastic layer draws its sample of the weights once and keeps it."""
    layers = stochastic_layers(model)
    for layer in layers:
        layer.held = []
    try:
        yield
    finally:
        for layer in layers:
            layer.held = None


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, a model is in evaluation mode; afterwards every module is in the mode that it had."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # By its own method first, for modules that do more in it than set the flag.
        model.train(before[0][1])
        for module, training in before:
            module.training = training
