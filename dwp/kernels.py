"""Kernels of trained networks: prune the near-zero ones, split, store.

Everything streams: the kernels of one layer of one network (or one chunk of an array) are
in memory at a time; the norms of all are in a temporary file.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from dwp.errors import InputError
from dwp.files import reserve, whole
from dwp.kernel_files import Batch, read

HISTOGRAM_BINS = 100
NORMS = 1_000_000  # in memory at a time
RULES = ("otsu", "valley")
SPLITS = ("train", "test")


def norms(kernels: np.ndarray) -> np.ndarray:
    """Return the Euclidean norm of each kernel [n, 1, k, k], [n] float32."""
    with np.errstate(over="ignore"):
        return np.sqrt(np.square(kernels, dtype=np.float64).sum((1, 2, 3))).astype(np.float32)


def log_histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts [b] and log10 edges [b + 1] of norms; those under a tenth of the largest count as that.

    Weight decay takes unused kernels to arbitrarily small norms; without a floor
    that tail would pull the threshold far below the kernels in use.
    """
    top = float(values.max())
    if top == 0:
        raise InputError("kernels: every kernel is zero; there is nothing to keep")
    low, high = np.log10(top) - 1, np.log10(top)
    edges = np.histogram_bin_edges([], HISTOGRAM_BINS, range=(low, high))
    counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    for part in _parts(values):
        # Clipped after the logarithm, so that rounding puts none outside the range.
        logs = np.clip(np.log10(np.maximum(part, top / 100, dtype=np.float64)), low, high)
        counts += np.histogram(logs, edges)[0]
    return counts, edges


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[first : first + NORMS] for first in range(0, len(values), NORMS))


def choose_threshold(values: np.ndarray, rule: str | float) -> float:
    """Return the norm below which kernels are dropped.

    Args:
        values: norms, [n].
        rule: a number is taken as it is; 'otsu' maximises the variance between the
            two classes of log-norms (Otsu 1979); 'valley' is the lowest point between
            the two highest peaks of the smoothed histogram of log-norms.

    Raises:
        InputError: 'valley' is asked of norms with a single mode, or the rule is not known.
    """
    if isinstance(rule, int | float):
        return float(rule)
    if rule not in RULES:
        raise InputError(
            f"kernels.threshold: {rule!r} is not known; use a number or one of {', '.join(RULES)}"
        )
    counts, edges = log_histogram(values)
    centres = (edges[:-1] + edges[1:]) / 2
    if rule == "otsu":
        below, total = np.cumsum(counts)[:-1], counts.sum()
        sums = np.cumsum(counts * centres)
        mean_below = sums[:-1] / np.maximum(below, 1)
        mean_above = (sums[-1] - sums[:-1]) / np.maximum(total - below, 1)
        between = below * (total - below) * np.square(mean_above - mean_below)
        # Bins of a gap are equally good: the middle of them is farthest from both classes.
        best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
        return float(10 ** edges[1 + best[[0, -1]]].mean())
    width = np.hanning(15) / np.hanning(15).sum()
    smooth = np.convolve(np.pad(counts, 7, mode="edge"), width, mode="valid")
    padded = np.pad(smooth, 1, constant_values=-1.0)
    peaks = np.flatnonzero((smooth > padded[:-2]) & (smooth >= padded[2:]) & (smooth > 0.02 * smooth.max()))
    if len(peaks) < 2:
        raise InputError(
            "kernels.threshold: the norms have a single mode, so there is no valley; give a number"
        )
    left, right = sorted(peaks[np.argsort(smooth[peaks])[-2:]])
    return float(10 ** centres[left + int(np.argmin(smooth[left : right + 1]))])


def collect(
    files: Iterable[str | Path],
    size: int,
    output: str | Path,
    *,
    threshold: str | float,
    test_fraction: float,
    seed: int = 0,
) -> dict[str, float]:
    """Prune and split the size×size kernels of many files into one HDF5 store.

    The store has groups `train` and `test` with chunked, compressed datasets `kernels`
    [n, 1, k, k], `norm`, and each kernel's origin `net`, `layer` (index into the
    attribute `layers`), `out`, `in`; the histogram of all norms before pruning
    (`histogram/counts`, `histogram/log10_edges`); and the attributes `kernel_size`,
    `threshold`, `rule`, `before`, `after`. Whether a kernel is for testing depends on
    the seed, its net and its place in it, not on how nets are spread over files.

    Returns:
        threshold, before, after, train and test counts.

    Raises:
        InputError: there are no kernels of that size, none is left after pruning, or one is too large.
    """
    files = list(files)

    def batches() -> Iterator[Batch]:
        for number, path in enumerate(files):
            yield from read(path, size, number)

    with whole(output) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as scratch:
        for batch in batches():
            norm = norms(batch.kernels)
            if not np.isfinite(norm).all():
                bad = np.argmax(~np.isfinite(norm)) + batch.first
                raise InputError(
                    f"kernels: net {batch.net}, {batch.layer}: kernel {bad} has numbers "
                    f"up to {np.abs(batch.kernels).max():g}; float32 cannot hold its norm"
                )
            scratch.write(norm.data)
        scratch.flush()
        if not scratch.tell():
            raise InputError(f"kernels: there is no {size}×{size} kernel in {', '.join(map(str, files[:3]))}")
        values = np.memmap(scratch, np.float32, "r")
        chosen = choose_threshold(values, threshold)
        kept = sum(int((part >= chosen).sum()) for part in _parts(values))
        if kept < 2:
            raise InputError(
                f"kernels.threshold: {chosen:g} leaves {kept} of {len(values)} {size}×{size} kernels "
                f"(largest norm {values.max():g}); give a smaller number"
            )
        with _create(temporary, kept, size) as store:
            store.attrs.update(
                kernel_size=size, threshold=chosen, rule=str(threshold), before=len(values), after=kept
            )
            _fill(store, batches(), chosen, test_fraction, seed)
            counts, edges = log_histogram(values)
            store["histogram/counts"], store["histogram/log10_edges"] = counts, edges
            sizes = {name: len(store[name]["norm"]) for name in SPLITS}
        if not all(sizes.values()):
            raise InputError(
                f"kernels: {kept} kernels of {size}×{size} split into {sizes['train']} for training and "
                f"{sizes['test']} for testing; neither may be empty"
            )
    return {"threshold": chosen, "before": len(values), "after": kept, **sizes}


def _fill(
    store: h5py.File, batches: Iterable[Batch], threshold: float, test_fraction: float, seed: int
) -> None:
    """Write the kernels that are kept into the groups of a store, and the names of their layers."""
    layers: dict[str, int] = {}
    groups = {name: _create_group(store, name, store.attrs["kernel_size"]) for name in SPLITS}
    for batch in batches:
        layer = layers.setdefault(batch.layer, len(layers))
        norm = norms(batch.kernels)
        index = np.arange(len(norm)) + batch.first
        lot = np.random.default_rng([seed, batch.net, layer, batch.first]).random(len(norm))
        for name, mine in zip(SPLITS, (lot >= test_fraction, lot < test_fraction), strict=True):
            keep = mine & (norm >= threshold)
            origin = {"net": np.full(keep.sum(), batch.net), "layer": np.full(keep.sum(), layer)}
            origin |= {"out": index[keep] // batch.inputs, "in": index[keep] % batch.inputs}
            _append(groups[name], {"kernels": batch.kernels[keep], "norm": norm[keep], **origin})
    store.attrs["layers"] = list(layers)


def load(path: str | Path, split: str) -> Tensor:
    """Return the kernels of a store, 'train' or 'test', [n, 1, k, k] float32.

    Raises:
        InputError: the file is missing, damaged, or no store of kernels.
    """
    try:
        with h5py.File(path, "r") as store:
            kernels = store[split]["kernels"][:]
            size = int(store.attrs["kernel_size"])
    except FileNotFoundError:
        raise InputError(f"kernels: there is no file {path}") from None
    except Exception as error:  # HDF5 has many ways to say that a file is damaged
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"kernels: {path} is damaged, or no store of kernels ({reason})") from None
    if kernels.shape[1:] != (1, size, size) or kernels.dtype != np.float32 or not np.isfinite(kernels).all():
        raise InputError(
            f"kernels: {path} is damaged: {split} has shape {kernels.shape}, dtype {kernels.dtype}; "
            f"expected finite float32 [n, 1, {size}, {size}]"
        )
    return torch.from_numpy(kernels)


def _create(path: Path, kernels: int, size: int) -> h5py.File:
    # As much as it takes without compression: each kernel with its norm and origin.
    reserve(path, kernels * 4 * (size * size + 5))
    return h5py.File(path, "w")


def _create_group(store: h5py.File, name: str, size: int) -> h5py.Group:
    group = store.create_group(name)
    options = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    rows = max(1, 1_000_000 // (4 * size * size))
    shape = (1, size, size)
    group.create_dataset(
        "kernels", (0, *shape), "f4", maxshape=(None, *shape), chunks=(rows, *shape), **options
    )
    group.create_dataset("norm", (0,), "f4", maxshape=(None,), chunks=(16_384,), **options)
    for field in ("net", "layer", "out", "in"):
        group.create_dataset(field, (0,), "i4", maxshape=(None,), chunks=(16_384,), **options)
    return group


def _append(group: h5py.Group, columns: dict[str, np.ndarray]) -> None:
    for name, values in columns.items():
        dataset = group[name]
        dataset.resize(len(dataset) + len(values), axis=0)
        if len(values):
            dataset[-len(values) :] = values
