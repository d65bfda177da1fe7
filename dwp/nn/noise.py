"""Stochastic layers, with noise that is set independently of train() and eval()."""

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum

import torch
from torch import Tensor, nn


class Noise(Enum):
    """Where the noise of a stochastic layer enters."""

    OUTPUTS = "outputs"
    """Independent noise for each image: local reparameterisation, ordinary dropout. For training."""
    WEIGHTS = "weights"
    """One sample of the weights, or of the dropped units, for all images. For members of an ensemble."""
    NONE = "none"
    """No noise: the posterior mean of the weights, all units."""


class Stochastic(nn.Module):
    """A layer with a `noise` switch."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise.OUTPUTS
        # In a list, so that PyTorch does not register a tensor that is a parameter.
        self.held: list[Tensor] | None = None

    def sample_once(self, draw: Callable[[], Tensor]) -> Tensor:
        """Return `draw()`; inside `fixed_weight_sample`, return the result of the first call."""
        if self.held is None:
            return draw()
        if not self.held:
            self.held.append(draw())
        return self.held[0]


class Dropout(Stochastic):
    """Drop whole channels (or units) with probability `rate`, at test time as well: MC dropout.

    One mask for all images is a sample of the next layer's weights (Gal and Ghahramani 2016), as needed
    for a member of an ensemble.
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
    """Set where the noise of every stochastic layer of a model enters."""
    for layer in stochastic_layers(model):
        layer.noise = noise


@contextlib.contextmanager
def noise_of(model: nn.Module, noise: Noise) -> Iterator[None]:
    """Set where the noise of every stochastic layer of a model enters, while the context is active."""
    layers = stochastic_layers(model)
    before = [layer.noise for layer in layers]
    set_noise(model, noise)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.noise = own


@contextlib.contextmanager
def fixed_weight_sample(model: nn.Module) -> Iterator[None]:
    """Let every stochastic layer draw one sample of its weights and keep it while the context is active."""
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
    """Put a model into evaluation mode while the context is active; then restore the mode of every module."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # First the model's own method, which may do more than set the flag.
        model.train(before[0][1])
        for module, training in before:
            module.training = training
