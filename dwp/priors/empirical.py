"""The empirical distribution of learned kernels, sampled with replacement."""

from typing import Any, Self

import torch
from torch import Tensor

from dwp.priors.base import Prior, register
from dwp.priors.settings import EmpiricalSettings


@register
class Empirical(Prior):
    """The empirical distribution of the source networks' kernels; it has no density.

    Args:
        kernel_size: k.
        kernels: number of kernels.
    """

    settings_class = EmpiricalSettings

    kernels: Tensor

    def __init__(self, kernel_size: int, kernels: int = 1) -> None:
        super().__init__(kernel_size, kernels=kernels)
        self.register_buffer("kernels", torch.zeros(kernels, 1, kernel_size, kernel_size))

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple[Self, list[dict]]:
        """Keep the training kernels."""
        prior = cls(train.shape[-1], kernels=len(train), **settings)
        prior.kernels.copy_(train)
        return prior, []

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw n kernels with replacement, [n, 1, k, k]."""
        chosen = torch.randint(len(self.kernels), (n,), generator=generator)
        return self.kernels.cpu()[chosen]
