"""Ordinary convolutional networks, built from a list of layers."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dwp.errors import InputError
from dwp.nn.conv import Conv2d, MaxPool2d
from dwp.nn.noise import Dropout


def build(
    network: dict, image_shape: tuple[int, int, int], classes: int, width: float = 1.0, *, crop: bool = True
) -> nn.Sequential:
    """Build a network from its description.

    Args:
        network: {'layers': [...], 'batch_norm': bool, 'dropout': rate}; a layer is {'conv':
            channels, 'kernel': k, 'pool': p} (a k×k convolution without padding, max-pooling
            over p×p, leaky ReLU) or {'linear': units}; dropout, if any, follows each
            activation. The classifier is added.
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
    channels, size, _ = image_shape
    modules: dict[str, nn.Module] = {}
    features = None
    for number, layer in enumerate(network["layers"], start=1):
        where = f"network.layers[{number - 1}]"
        if "conv" in layer:
            if features is not None:
                raise InputError(f"{where}: a convolution cannot follow a linear layer")
            kernel, pool = layer["kernel"], layer.get("pool", 1)
            out = max(1, round(layer["conv"] * width))
            if kernel > size:
                raise InputError(
                    f"{where}: kernel {kernel} does not fit the {size}×{size} image that reaches it"
                )
            size = (size - kernel + 1) // pool
            if size < 1:
                raise InputError(f"{where}: pool {pool} leaves nothing of the image")
            modules[f"conv{number}"] = Conv2d(channels, out, kernel)
            if network.get("batch_norm"):
                modules[f"norm{number}"] = nn.BatchNorm2d(out)
            # Pooling first: the activation is monotone, so the result is the same for a quarter of the work.
            if pool > 1:
                modules[f"pool{number}"] = MaxPool2d(pool)
            modules[f"activation{number}"] = nn.LeakyReLU()
            channels = out
        else:
            if features is None:
                modules["flatten"] = nn.Flatten()
                features = channels * size * size
            modules[f"linear{number}"] = nn.Linear(features, layer["linear"])
            modules[f"activation{number}"] = nn.LeakyReLU()
            features = layer["linear"]
        if network.get("dropout"):
            modules[f"dropout{number}"] = Dropout(network["dropout"])
    if features is None:
        modules["flatten"] = nn.Flatten()
        features = channels * size * size
    modules["classifier"] = nn.Linear(features, classes)
    # The statistics of batch norm are over what pooling drops, too.
    needed = size_needed(network, size)
    if crop and not network.get("batch_norm") and needed < image_shape[1]:
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


def size_needed(network: dict, size: int) -> int:
    """Return how many rows of an image make `size` rows of what the last convolution leaves after pooling."""
    for layer in reversed([layer for layer in network["layers"] if "conv" in layer]):
        size = size * layer.get("pool", 1) + layer["kernel"] - 1
    return size


def layer_sizes(network: dict) -> dict[str, int]:
    """Return the kernel size of each convolution of a description, by the layer's name in `build`."""
    return {
        f"conv{number}": layer["kernel"]
        for number, layer in enumerate(network["layers"], start=1)
        if "conv" in layer
    }


def kernel_sizes(network: dict) -> list[int]:
    """Return the kernel sizes of a network's description, in order of their first layer."""
    return list(dict.fromkeys(layer_sizes(network).values()))


def size_label(size: int) -> str:
    """Return what a configuration calls a kernel size: '7x7'."""
    return f"{size}x{size}"


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
