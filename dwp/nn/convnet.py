"""Ordinary convolutional networks, built from their description, `spec.Network`."""

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
        network: its layers; max-pooling goes before the activation, dropout, if any, after it. The
            classifier is added.
        image_shape: (channels, height, width) of one image.
        classes: outputs of the classifier.
        width: factor on the channels of every convolution (at least one remains).
        crop: leave out the last rows and columns of the image where pooling would drop
            all that comes of them: less work, the same result.

    Returns:
        A module from images [n, c, h, w] to logits [n, classes].

    Raises:
        InputError: a kernel or pool does not fit the image that reaches its layer.
    """
    size = network.check(image_shape)
    channels, features = image_shape[0], None
    modules: dict[str, nn.Module] = {}
    for number, layer in enumerate(network.layers, start=1):
        if isinstance(layer, Conv):
            out = max(1, round(layer.conv * width))
            modules[f"conv{number}"] = Conv2d(channels, out, layer.kernel)
            if network.batch_norm:
                modules[f"norm{number}"] = nn.BatchNorm2d(out)
            # Pooling first: the activation is monotone, so the result is the same for a quarter of the work.
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
    # The statistics of batch norm are over what pooling drops, too.
    needed = network.rows_needed(size)
    if crop and not network.batch_norm and needed < image_shape[1]:
        modules = {"crop": Crop(needed), **modules}
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


class Crop(nn.Module):
    """The first rows and columns of an image."""

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
    """Yield the name and module of each two-dimensional convolution of any model."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, module


def kernel_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    """Yield the name and module of each layer of any model that a prior can fill.

    Beside convolutions these are transposed ones, whose weight is [in, out, k, k]: a kernel
    is what the layer stamps wherever a convolution with the same kernel would have found it.
    Only initialisation treats both alike; penalties, posteriors and the collection of
    kernels are about `convolutions`.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield name, module


def squared_norm(model: nn.Module) -> Tensor:
    """Return the sum of squares of all convolution kernels: the L2 penalty of the paper's source nets."""
    return sum((module.weight.square().sum() for _, module in convolutions(model)), torch.zeros(()))
