"""Scores of priors: log density of held-out kernels, and draws beside held-out kernels."""

import math
import time
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dwp.nn.seeding import seeded
from dwp.priors.base import Prior

COLUMNS = ("size", "prior", "kind", "exact", "samples", "kernels", "mean", "standard_error")

MOMENTS = (
    *("kernels", "relative_mean", "rms_norm"),
    *("norm_05", "norm_25", "norm_50", "norm_75", "norm_95", "nearest"),
)
SAMPLES = (
    *("size", "prior", "kind", "draw", *MOMENTS, "low_frequencies", "energy", "p_value"),
    *("bytes", "fit_seconds", "sample_seconds"),
)

CODES = 4096
"""Codes to decode at a time (kernels times K), to limit memory."""
TIMED = 4096
"""Samples whose drawing is timed."""


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


def compare_samples(
    priors: Mapping[str, Prior],
    train: Tensor,
    test: Tensor,
    draws: int = 2000,
    seed: int = 0,
    *,
    fit_seconds: Mapping[str, float] | None = None,
    measure_time: bool = False,
) -> list[dict]:
    """Compare draws of each prior with held-out kernels, and their distances to training kernels.

    Args:
        priors: priors by name that can be sampled from, of the kernels' size.
        train: training kernels [n, 1, k, k].
        test: held-out kernels [m, 1, k, k].
        draws: number of draws of each prior.
        seed: seed of the draws, the same for each prior.
        fit_seconds: seconds that the fit of a prior took, by name, to be repeated in the rows.
        measure_time: measure the seconds of sampling, which differ from run to run.

    Returns:
        A row of SAMPLES for the held-out kernels (with `prior` and `kind` empty and `draw` 'held_out'),
        and for each prior one of samples (`draw` 'sample') and, where it has a last layer of noise, one of
        draws without it ('mean').

        - `relative_mean`: norm of the mean kernel by the root mean square of the norms (from an unbiased
          estimate of the former's square; 0 if that is negative, NaN for a single kernel).
        - `rms_norm`, `norm_05` to `norm_95`: root mean square and quantiles of norms.
        - `low_frequencies`: see `low_frequencies`.
        - `nearest`: median Euclidean distance to the nearest training kernel. Below that of held-out
          kernels, the prior repeats training kernels.
        - `energy`, `p_value`: see `energy_test`, against held-out kernels; for the held-out kernels
          themselves, against training kernels.
        - `bytes`: of the prior's tensors.
        - `fit_seconds`; `sample_seconds`: of 4,096 samples, the best of three. NaN where not known.
    """
    found: dict[tuple[str, str, str], Tensor] = {("", "", "held_out"): test}
    for name, prior in priors.items():
        for draw in ("sample", "mean"):
            generator = torch.Generator().manual_seed(seed)
            w = prior.sample(draws, generator, mean=draw == "mean")
            if draw == "sample" or not torch.equal(w, found[name, prior.kind, "sample"]):
                found[name, prior.kind, draw] = w
    rows = []
    for (name, kind, draw), w in found.items():
        row = {"size": train.shape[-1], "prior": name, "kind": kind, "draw": draw, **_moments(w, train)}
        row["low_frequencies"] = low_frequencies(w)
        row["energy"], row["p_value"] = energy_test(w, test if name else train)
        cost = dict.fromkeys(("bytes", "fit_seconds", "sample_seconds"), math.nan)
        if name:
            cost["bytes"] = sum(tensor.nbytes for tensor in priors[name].state_dict().values())
            cost["fit_seconds"] = (fit_seconds or {}).get(name, math.nan)
        if draw == "sample" and measure_time:
            cost["sample_seconds"] = _sample_seconds(priors[name])
        rows.append(row | cost)
    return rows


def energy_test(
    x: Tensor, y: Tensor, *, most: int = 1000, permutations: int = 199, seed: int = 0
) -> tuple[float, float]:
    """Return the energy distance of two samples of kernels, and the p-value that they have one distribution.

    With Euclidean distances between kernels of either sample, the coefficient is

        (2·E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖) / 2·E‖X - Y‖,

    from 0, for equal distributions, to 1 (Székely & Rizzo 2013, "Energy statistics"). Samples of n kernels
    of one distribution have about 1/n.

    Args:
        x: kernels [n, 1, k, k].
        y: kernels [m, 1, k, k].
        most: largest number of kernels of each to compare, the first after a shuffle with the seed.
        permutations: permutations of both samples together; the p-value is the share of them, and of the
            samples as they are, with at least this distance.
        seed: seed of the shuffle and the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [
        w[torch.randperm(len(w), generator=generator)[:most]].detach().cpu().double().flatten(1)
        for w in (x, y)
    ]
    both = torch.cat(parts)
    # Without matrix products, which would round the distances of near kernels.
    distances = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    n, m = map(len, parts)
    # With weights 1/n and -1/m, the energy is minus a quadratic form.
    weights = torch.cat([both.new_full((n,), 1 / n), both.new_full((m,), -1 / m)])
    orders = torch.stack([torch.randperm(n + m, generator=generator) for _ in range(permutations)], 1)
    weights = torch.cat([weights[:, None], weights[orders]], 1)
    energy = -(weights * (distances @ weights)).sum(0)
    between = distances[:n, n:].mean().item()
    # Rounding must not make equal energies differ.
    extreme = (energy >= energy[0] - 1e-12 * between).double().mean().item()
    return (energy[0].item() / (2 * between) if between else 0.0), extreme


def low_frequencies(w: Tensor) -> float:
    """Return the share of power at frequencies of up to 1/4 cycle per pixel, half the highest, over kernels.

    The power is that of the frequency response, the Fourier transform of the kernel padded with zeros;
    of white noise this is π/16 = 0.196. It is the mean over kernels, so that large ones do not dominate.

    Args:
        w: kernels [n, 1, k, k].
    """
    padded = max(32, 4 * w.shape[-1])
    frequency = torch.fft.fftfreq(padded, dtype=torch.float64)
    low = (frequency[:, None].square() + frequency.square()).sqrt() <= 0.25
    shares = []
    for part in w.detach().cpu().double().split(512):
        power = torch.fft.fft2(part[:, 0], s=(padded, padded)).abs().square()
        shares.append(power[:, low].sum(1) / power.sum((1, 2)).clamp_min(1e-300))
    return torch.cat(shares).mean().item()


def _sample_seconds(prior: Prior) -> float:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        prior.sample(TIMED, torch.Generator().manual_seed(0))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


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
    return dict(zip(MOMENTS, values, strict=True))
