"""Pruning of near-zero kernels: the histogram of norms, its modes, and the threshold."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

import numpy as np

from dwp.errors import InputError, unknown

RULES = ("otsu", "valley")
NORMS = 1_000_000  # in memory at a time
DECADE = 100  # bins
LOWEST, HIGHEST = -46, 39  # decades that hold every float32; zeros are in the first bin
SHOWN = 2 * DECADE  # bins below the norm that few kernels exceed
HEADROOM = 30  # bins above it: a factor of 2
WINDOW = 15  # bins that are counted together to find modes
# A valley's highest density relative to the modes on both sides, and its least depth in standard errors.
DEEP, SIGNIFICANT = 0.5, 5.0


class Values(Protocol):
    """Numbers [n] that are read in parts: an array, or a file of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Histogram:
    """Counts of log10 norms over the two decades of the kernels in use.

    The decades end at a norm that few kernels exceed (one in 500, and up to eight more), so that
    outliers do not move them; norms above twice that one are counted in the last bin. Weight decay
    drives unused kernels to arbitrarily small norms. They are counted in the first bin, since their
    tail would pull the threshold far below the kernels in use.

    Attributes:
        counts: [b].
        log10_edges: [b + 1], a hundredth of a decade apart.
        valley: [b], depth in standard errors where the density is at most half of that at modes on
            both sides and the depth is at least five; 0 elsewhere.
    """

    counts: np.ndarray
    log10_edges: np.ndarray
    valley: np.ndarray

    @property
    def modes(self) -> int:
        """Return 2 if there is at least one valley, else 1."""
        return 2 if self.valley.any() else 1


def parts(values: Values) -> Iterator[np.ndarray]:
    """Yield numbers [n] in parts that fit in memory."""
    return (values[first : first + NORMS] for first in range(0, len(values), NORMS))


def histogram(values: Values) -> Histogram:
    """Return the histogram of norms [n], read in parts.

    Raises:
        InputError: all are zero.
    """
    counts = np.zeros((HIGHEST - LOWEST) * DECADE, dtype=np.int64)
    for part in parts(values):
        logs = np.log10(np.maximum(part, 10.0**LOWEST, dtype=np.float64))
        bins = np.clip((logs - LOWEST) * DECADE, 0, len(counts) - 1).astype(np.int64)
        counts += np.bincount(bins, minlength=len(counts))
    if counts[0] == len(values):
        raise InputError("kernels: every kernel is zero; there is nothing to keep")
    few = len(values) // 500 + min(8, len(values) // 10)
    top = int(np.searchsorted(np.cumsum(counts), len(values) - few))
    low, high = max(0, top + 1 - SHOWN), min(top + HEADROOM, int(np.flatnonzero(counts)[-1])) + 1
    valley = _valley(counts[:high])[low:]
    inside = counts[low:high].copy()
    inside[0] += counts[:low].sum()
    inside[-1] += counts[high:].sum()
    return Histogram(inside, LOWEST + np.arange(low, high + 1) / DECADE, valley)


def _valley(counts: np.ndarray) -> np.ndarray:
    """Return the depth of each window below the modes on both sides, in standard errors; 0 if no valley."""
    around = np.convolve(counts, np.ones(WINDOW, dtype=np.int64), mode="same")
    left, right = np.maximum.accumulate(around), np.maximum.accumulate(around[::-1])[::-1]
    lower = np.minimum(left, right)
    # The root of a Poisson count has a standard error of 1/2, the difference of two of 1/√2.
    errors = np.sqrt(2) * (np.sqrt(lower) - np.sqrt(around))
    return np.where((around <= DEEP * lower) & (errors >= SIGNIFICANT), errors, 0.0)


def choose_threshold(norms: Histogram, rule: str | float) -> float:
    """Return the norm below which kernels are dropped.

    Args:
        norms: their histogram.
        rule: the threshold itself; or 'valley', the deepest valley between two modes; or 'otsu',
            which maximises the variance between the two classes of log-norms (Otsu 1979), among
            valleys if there are any.

    Raises:
        InputError: the rule is 'valley' and the norms have a single mode, or the rule is not known.
    """
    if isinstance(rule, Real):
        return float(rule)
    if rule not in RULES:
        raise unknown("kernels.threshold", rule, ["a number", *RULES])
    edges = norms.log10_edges
    if rule == "valley":
        if norms.modes == 1:
            raise InputError(
                "kernels.threshold: the norms have a single mode, so there is no valley; give a number"
            )
        return float(10 ** _middle_of_best(norms.valley, (edges[:-1] + edges[1:]) / 2))
    counts, centres = norms.counts, (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(total - below, 1)
    between = below * (total - below) * np.square(mean_above - mean_below)
    # A small mode adds little variance between the classes; splitting a large mode could add more.
    if norms.modes == 2:
        between = np.where(norms.valley[:-1] > 0, between, 0.0)
    return float(10 ** _middle_of_best(between, edges[1:-1]))


def halves_a_single_mode(norms: Histogram, rule: str | float) -> bool:
    """Return whether the rule is 'otsu' and splits norms that have a single mode, at an arbitrary place."""
    return rule == "otsu" and norms.modes == 1


def _middle_of_best(merit: np.ndarray, places: np.ndarray) -> float:
    # All places in a gap are equally good; the middle one is farthest from both modes.
    best = np.flatnonzero(merit >= merit.max() * (1 - 1e-9))
    return places[best[len(best) // 2]]
