"""Convolutional networks, built from a description (`spec.Network`)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dwp.nn.conv import Conv2d, MaxPool2d
from dwp.nn.noise import Dropout
from dwp.nn.spec import Conv, Network


def build(
    network: Network,
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    *,
    crop: bool = True,
) -> nn.Sequential:
    """Build a network.

    Args:
        network: description of the layers. Max-pooling comes before the activation, dropout after it;
            the classifier is added.
        image_shape: (channels, height, width) of one image.
        classes: outputs of the classifier.
        width: factor on the channels of every convolution (at least one remains).
        crop: drop the last rows and columns of the image that do not affect the result because of
            pooling; this saves time.

    Returns:
        A module that maps images [n, c, h, w] to logits [n, classes].

    Raises:
        InputError: a kernel or pool does not fit the image that reaches its layer.
    """
    size = network.check(image_shape)
    channels, features = image_shape[0], None
    modules: dict[str, nn.Module] = {}
    for number, layer in enumerate(network.layers, start=1):
        if isinstance(layer, Conv):
            out = max(1, round(layer.conv * width))
            modules[f"conv{number}"] = Conv2d(channels, out, layer.kernel, padding=layer.padding)
            if network.batch_norm:
                modules[f"norm{number}"] = nn.BatchNorm2d(out)
            # Pooling first: the activation is monotone, so the result is the same, with less work.
            if layer.pool > 1:
                modules[f"pool{number}"] = MaxPool2d(layer.pool)
            channels = out
        else:
            if features is None:
                modules["flatten"] = nn.Flatten()
                features = channels * size * size
            modules[f"linear{number}"] = nn.Linear(features, layer.linear)
            features = layer.linear
        modules[f"activation{number}"] = nn.LeakyReLU()
        if network.dropout:
            modules[f"dropout{number}"] = Dropout(network.dropout)
    if features is None:
        modules["flatten"] = nn.Flatten()
        features = channels * size * size
    modules["classifier"] = nn.Linear(features, classes)
    # Batch statistics include pixels that pooling discards.
    if crop and not network.batch_norm and not network.is_padded:
        needed = network.rows_needed(size)
        if needed < image_shape[1]:
            modules = {"crop": Crop(needed), **modules}
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


class Crop(nn.Module):
    """Keep the first `size` rows and columns of an image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, c, h, w] to [n, c, size, size]."""
        return x[:, :, : self.size, : self.size]

    def extra_repr(self) -> str:
        """Show the size in the module's repr."""
        return f"{self.size}"


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Yield name and module of each two-dimensional convolution of a model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, module


def kernel_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    """Yield name and module of each layer of a model that a prior can initialise.

    These are convolutions and transposed convolutions, whose weight is [in, out, k, k]. Penalties,
    posteriors and the collection of kernels apply to `convolutions` only.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield name, module


def squared_norm(model: nn.Module) -> Tensor:
    """Return the sum of squares of all convolution kernels, the L2 penalty of the paper's source networks."""
    return sum((module.weight.square().sum() for _, module in convolutions(model)), torch.zeros(()))
