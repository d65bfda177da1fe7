"""Base class of priors with a mean and a covariance, by which kernels are whitened."""

from typing import Any, Self

import torch
from torch import Tensor

from dwp.nn.precision import at_least_float32
from dwp.priors.base import Prior


class Whitening(Prior):
    """A prior with a mean μ and a covariance L·Lᵀ of kernels, or a scale matrix; see `Prior`."""

    mean: Tensor
    factor: Tensor

    def __init__(self, kernel_size: int, **settings: Any) -> None:
        super().__init__(kernel_size, **settings)
        self.register_buffer("mean", torch.zeros(kernel_size**2))
        """μ, [k²]."""
        self.register_buffer("factor", torch.eye(kernel_size**2))
        """L, lower triangular, [k², k²]."""

    def take_moments(self, other: "Whitening") -> Self:
        """Copy μ and L from a prior over kernels of the same size; return self."""
        self.mean.copy_(other.mean)
        self.factor.copy_(other.factor)
        return self

    def whiten(self, w: Tensor) -> Tensor:
        """Return L⁻¹·(w - μ) of kernels [n, 1, k, k], [n, k²], in float32 or wider."""
        centred = (at_least_float32(w).flatten(1) - self.mean).T
        return torch.linalg.solve_triangular(self.factor, centred, upper=False).T

    def colour(self, x: Tensor) -> Tensor:
        """Return the kernels [n, 1, k, k] of whitened ones, [n, k²]."""
        return (self.mean + x @ self.factor.T).view(-1, 1, self.kernel_size, self.kernel_size)
