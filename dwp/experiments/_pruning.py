"""What experiments that prune networks share: the warm-up of the KL, and thresholds to compare."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

THRESHOLDS = 30
"""Thresholds of the curve, at geometric shares of the groups or weights that stay."""
SMALLEST_SHARE = 1 / 1000


class Warmup(nn.Module):
    """Weight of the KL divergence that grows linearly from zero; a module, so that checkpoints have it.

    Args:
        steps: number of steps of the growth.
        largest: the weight afterwards.
    """

    step: Tensor
    weight: Tensor

    def __init__(self, steps: int, largest: float) -> None:
        super().__init__()
        self.steps, self.largest = steps, largest
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("weight", torch.zeros(()))

    def advance(self) -> None:
        """Set the weight of the next step."""
        self.step += 1
        share = (self.step / self.steps).clamp_max(1) if self.steps else torch.ones(())
        self.weight.copy_(self.largest * share)


def thresholds(rates: Iterable[Tensor]) -> list[float]:
    """Return thresholds of log dropout rates at geometric shares of what stays, the mildest first."""
    ordered = torch.cat([one.flatten() for one in rates]).sort().values
    shares = torch.logspace(0, math.log10(SMALLEST_SHARE), THRESHOLDS, dtype=torch.double)
    places = (shares * len(ordered)).ceil().long().clamp(1, len(ordered)) - 1
    return list(dict.fromkeys(ordered[places.to(ordered.device)].tolist()))
