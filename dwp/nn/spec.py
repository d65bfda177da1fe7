"""Descriptions of networks, checked without PyTorch; `convnet.build` builds a convolutional one."""

from collections.abc import Iterator
from dataclasses import dataclass

from dwp.errors import InputError
from dwp.settings import setting

RULES = ("xavier", "he")
"""Classical rules of initialisation, implemented in `dwp.initialisation`."""


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution, then max-pooling and a leaky ReLU."""

    conv: int = setting("output channels", ge=1)
    kernel: int = setting("kernel size", ge=1)
    pool: int = setting("size of max-pooling", 1, ge=1)
    padding: int = setting("rows and columns of zeros on each side of the image", 0, ge=0)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer, then a leaky ReLU."""

    linear: int = setting("output units", ge=1)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A convolutional network; the classifier is added automatically."""

    layers: tuple[Conv | Linear, ...] = setting(
        "convolutions, {conv, kernel, pool, padding}, then linear layers, {linear}", min_length=1
    )
    batch_norm: bool = setting("batch normalisation after each convolution")
    dropout: float = setting("rate of dropout after each activation", 0.0, ge=0, lt=1)

    def convolutions(self) -> Iterator[tuple[str, Conv]]:
        """Yield the name in the built network, and the description, of each convolution."""
        for number, layer in enumerate(self.layers, start=1):
            if isinstance(layer, Conv):
                yield f"conv{number}", layer

    def layer_sizes(self) -> dict[str, int]:
        """Return the kernel size of each convolution, by layer name."""
        return {name: layer.kernel for name, layer in self.convolutions()}

    @property
    def is_padded(self) -> bool:
        """Return whether any convolution is padded."""
        return any(layer.padding for _, layer in self.convolutions())

    def kernel_sizes(self) -> list[int]:
        """Return the distinct kernel sizes, in order of their first layer."""
        return list(dict.fromkeys(self.layer_sizes().values()))

    def check(self, image_shape: tuple[int, int, int]) -> int:
        """Check that the network fits images of a shape (channels, height, width).

        Returns:
            The number of rows, and of columns, after the last convolution and its pooling.

        Raises:
            InputError: a kernel or pool does not fit the image that reaches its layer, or a
                convolution follows a linear layer.
        """
        size, flat = image_shape[1], False
        for number, layer in enumerate(self.layers):
            where = f"network.layers[{number}]"
            if isinstance(layer, Linear):
                flat = True
                continue
            if flat:
                raise InputError(f"{where}: a convolution cannot follow a linear layer")
            padded = size + 2 * layer.padding
            if layer.kernel > padded:
                raise InputError(
                    f"{where}: kernel {layer.kernel} does not fit the {padded}×{padded} image that reaches it"
                )
            size = (padded - layer.kernel + 1) // layer.pool
            if size < 1:
                raise InputError(f"{where}: pool {layer.pool} leaves nothing of the image")
        return size

    def rows_needed(self, size: int) -> int:
        """Return the number of rows of an image that yield `size` rows after the last pooling.

        It is for a network without padding, whose zeros depend on where the image ends.
        """
        for _, layer in reversed(list(self.convolutions())):
            size = size * layer.pool + layer.kernel - 1
        return size


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A recurrent network over tokens: an embedding, an LSTM and a linear layer."""

    embedding: int = setting("size of the embedding of a token", ge=1)
    hidden: int = setting("units of the LSTM", ge=1)

    def layer_sizes(self) -> dict[str, int]:
        """Return the kernel size of each convolution: there are none."""
        return {}

    def kernel_sizes(self) -> list[int]:
        """Return the distinct kernel sizes: there are none."""
        return []


def size_label(size: int) -> str:
    """Return the name of a kernel size in a configuration, such as '7x7'."""
    return f"{size}x{size}"
