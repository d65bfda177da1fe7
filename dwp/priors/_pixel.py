"""Convolutions between a map of one pixel and one of the kernel's size, as the matrix products that they are.

Parameters, names and results are those of PyTorch's own; its convolutions take two to three
times as long for maps this small.
"""

from torch import Tensor, nn
from torch.nn import functional


class ToPixel(nn.Conv2d):
    """A convolution without padding, of a map as large as its kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, k, k] to [n, o, 1, 1]."""
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


class FromPixel(nn.ConvTranspose2d):
    """A transposed convolution without padding, of a map of one pixel."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map x [n, i, 1, 1] to [n, o, k, k]."""
        product = x.flatten(1) @ self.weight.flatten(1)
        return product.view(len(x), *self.weight.shape[1:]) + self.bias[:, None, None]
