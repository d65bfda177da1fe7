"""What held-out kernels say of every prior: their mean log density, exact or bounded, in one table."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dwp.nn.seeding import seeded
from dwp.priors.base import Prior

COLUMNS = ("size", "prior", "kind", "exact", "samples", "kernels", "mean", "standard_error")

CODES = 4096
"""Kernels times samples (K) scored at a time, which bounds memory."""


def held_out(w: Tensor, most: int) -> Tensor:
    """Return at most so many of the kernels [n, 1, k, k], drawn without replacement, the same each time."""
    return w[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))[:most]]


def score(priors: Mapping[str, Prior], w: Tensor, samples: Iterable[int]) -> list[dict]:
    """Return the mean log density of the same kernels under each prior, with fixed noise.

    Args:
        priors: by name, all of the kernels' size and on their device, each with a density.
        w: held-out kernels [n, 1, k, k].
        samples: values of K. A prior whose `log_prob` is a lower bound is scored for each, by
            the importance-weighted bound, which in expectation grows with K towards log p(w);
            an exact one once.

    Returns:
        A row of COLUMNS for each prior and K: `exact`, whether the mean is that of log p(w)
        itself; `mean` and its `standard_error` over kernels (NaN for a single one), in nats per kernel.
    """
    rows = []
    for name, prior in priors.items():
        for count in [1] if prior.exact else sorted(samples):
            found = _log_prob(prior, w, count)
            rows.append(
                {
                    "size": prior.kernel_size,
                    "prior": name,
                    "kind": prior.kind,
                    "exact": prior.exact,
                    "samples": count,
                    "kernels": len(w),
                    "mean": found.mean().item(),
                    "standard_error": found.std(correction=1).item() / math.sqrt(len(w))
                    if len(w) > 1
                    else math.nan,
                }
            )
    return rows


@torch.no_grad()
def _log_prob(prior: Prior, w: Tensor, samples: int) -> Tensor:
    with seeded(0, w.device):
        parts = [prior.log_prob(part, samples) for part in w.split(max(1, CODES // samples))]
    return torch.cat(parts).cpu().double()
