"""Checks of priors against held-out kernels: log density, and moments of draws."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dwp.nn.seeding import seeded
from dwp.priors.base import Prior

COLUMNS = ("size", "prior", "kind", "exact", "samples", "kernels", "mean", "standard_error")

MOMENTS = (
    *("size", "prior", "kind", "draw", "kernels", "relative_mean", "rms_norm"),
    *("norm_05", "norm_25", "norm_50", "norm_75", "norm_95", "nearest"),
)

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


def moments(
    priors: Mapping[str, Prior], train: Tensor, test: Tensor, draws: int = 2000, seed: int = 0
) -> list[dict]:
    """Return moments of held-out kernels and of draws of each prior, and their distances to training kernels.

    Args:
        priors: priors by name that can be sampled from, of the kernels' size.
        train: training kernels [n, 1, k, k].
        test: held-out kernels [m, 1, k, k].
        draws: number of draws of each prior.
        seed: seed of the draws, the same for each prior.

    Returns:
        A row of MOMENTS for the held-out kernels (with `prior` and `kind` empty and `draw` 'held_out'),
        and for each prior one of samples (`draw` 'sample') and, where it has a last layer of noise, one of
        draws without it ('mean'). `relative_mean` is the norm of the mean kernel by the root mean square of
        the norms (from an unbiased estimate of the former's square; 0 if that is negative, NaN for a single
        kernel); `norm_05` to `norm_95` are quantiles of norms; `nearest` is the median Euclidean distance
        to the nearest training kernel.
    """
    found: dict[tuple[str, str, str], Tensor] = {("", "", "held_out"): test}
    for name, prior in priors.items():
        for draw in ("sample", "mean"):
            generator = torch.Generator().manual_seed(seed)
            w = prior.sample(draws, generator, mean=draw == "mean")
            if draw == "sample" or not torch.equal(w, found[name, prior.kind, "sample"]):
                found[name, prior.kind, draw] = w
    keys = ("size", "prior", "kind", "draw")
    return [
        dict(zip(keys, (train.shape[-1], *key), strict=True)) | _moments(w, train) for key, w in found.items()
    ]


def _moments(w: Tensor, train: Tensor) -> dict[str, float]:
    x, references = w.detach().cpu().double().flatten(1), train.cpu().double().flatten(1)
    n, squares = len(x), x.square().sum(1)
    # The square of the mean's norm would be too large by the variance of the mean.
    excess = (x.sum(0).square().sum() - squares.sum()).item() / (n * (n - 1)) if n > 1 else math.nan
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=x.dtype)
    nearest = torch.cat([torch.cdist(part, references).min(1).values for part in x.split(512)])
    values = (
        n,
        math.sqrt(max(excess, 0) / squares.mean().item()) if n > 1 else math.nan,
        squares.mean().sqrt().item(),
        *squares.sqrt().quantile(quantiles).tolist(),
        nearest.median().item(),
    )
    return dict(zip(MOMENTS[4:], values, strict=True))
