"""Held-out log density of each prior, exact or a lower bound."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dwp.nn.seeding import seeded
from dwp.priors.base import Prior

COLUMNS = ("size", "prior", "kind", "exact", "samples", "kernels", "mean", "standard_error")

CODES = 4096
"""Codes to decode at a time (kernels times K), to limit memory."""


def held_out(w: Tensor, most: int) -> Tensor:
    """Return at most `most` of the kernels [n, 1, k, k], drawn without replacement with a fixed seed."""
    return w[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))[:most]]


def score(priors: Mapping[str, Prior], w: Tensor, samples: Iterable[int]) -> list[dict]:
    """Return the mean log density of the same kernels under each prior, with fixed noise.

    Args:
        priors: priors by name, with a density, of the kernels' size and on their device.
        w: held-out kernels [n, 1, k, k].
        samples: values of K. A prior with a lower bound is scored once for each, by the
            importance-weighted bound, whose expectation grows with K towards log p(w); a prior with
            an exact density is scored once.

    Returns:
        A row of COLUMNS for each prior and K: `exact` (not a lower bound), `mean` and its
        `standard_error` over kernels (NaN for a single one), in nats per kernel.
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
