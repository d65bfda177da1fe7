"""Approximate posteriors over kernels: what a Bayesian layer learns.

Each form is a module over M kernels that yields a factorised Gaussian; forms are
registered by name. `GaussianPosterior` is what a prior's KL takes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.devices import widened
from dwp.errors import InputError


def noise_like(x: Tensor) -> Tensor:
    """Return standard normal noise of the shape, dtype, device and memory layout of x."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        # Drawn in memory order: for other orders PyTorch's CPU generator takes eight times as long.
        n, c, h, w = x.shape
        return torch.randn(n, h, w, c, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    return torch.randn_like(x)


@dataclass(frozen=True)
class GaussianPosterior:
    """A factorised Gaussian over kernels; both fields are [n, 1, k, k], float32 or wider."""

    mean: Tensor
    log_variance: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "log_variance"):
            object.__setattr__(self, name, widened(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, chosen: Tensor) -> "GaussianPosterior":
        return GaussianPosterior(self.mean[chosen], self.log_variance[chosen])

    def rsample(self) -> Tensor:
        """Draw one sample of each kernel, [n, 1, k, k], differentiable in both fields."""
        return self.mean + (0.5 * self.log_variance).exp() * noise_like(self.mean)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, summed over all weights."""
        return 0.5 * self.log_variance.sum() + 0.5 * math.log(2 * math.pi * math.e) * self.mean.numel()

    def log_alpha(self) -> Tensor:
        """Return log(variance / mean²) of each weight, [n, 1, k, k]."""
        # The floor keeps value and gradient finite where a mean is zero.
        return self.log_variance - (self.mean.square() + 1e-16).log()


class Additive(nn.Module):
    """Independent means and log-variances: w = mean + exp(log_variance / 2)·ε."""

    initial_log_variance = -10.0

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.detach().clone())
        self.log_variance = nn.Parameter(torch.full_like(mean, self.initial_log_variance))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, shaped like the weight."""
        return self.mean, self.log_variance


class TruncatedAlpha(nn.Module):
    """Multiplicative noise of bounded strength: variance = α·mean², α = sigmoid(a) <= 1.

    The posterior under which the log-uniform prior of Kingma et al. (2015) is used.
    """

    initial_a = -2.0

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.detach().clone())
        self.a = nn.Parameter(torch.full_like(mean, self.initial_a))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, shaped like the weight."""
        return self.mean, functional.logsigmoid(self.a) + (self.mean.square() + 1e-16).log()


FORMS: dict[str, Callable[[Tensor], nn.Module]] = {"additive": Additive, "truncated_alpha": TruncatedAlpha}


def build(form: str, mean: Tensor) -> nn.Module:
    """Return a posterior of a named form, centred on `mean`.

    Raises:
        InputError: there is no such form.
    """
    if form not in FORMS:
        raise InputError(f"posterior: {form!r} is not known; use one of {', '.join(FORMS)}")
    return FORMS[form](mean)
