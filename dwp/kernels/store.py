"""Store of the kernels of trained networks, pruned and split into train and test.

Kernels are streamed: only those of one layer of one network (or one chunk of an array) are in
memory. The norms of all kernels, and the hashes of those kept, are in temporary files; repeated hashes
are counted in parts with the same leading bits.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from dwp.errors import InputError
from dwp.files import atomic_write, reserve
from dwp.kernels.collection import Column, choose, hashes, is_held_out, norms, read_all
from dwp.kernels.readers import Batch

SPLITS = ("train", "test")
BITS = 6  # leading bits of hashes by which they are parted to count repeated ones

logger = logging.getLogger(__name__)


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
    attribute `layers`), `out`, `in`, in the order of the files; the histogram of all norms before
    pruning (`histogram/counts`, `histogram/log10_edges`, see `dwp.kernels.pruning.Histogram`); and the
    attributes `kernel_size`, `threshold`, `rule`, `modes` of the norms (1 or 2), `before`, `after`,
    and `duplicates`, the number of kept kernels that repeat another.

    The split of a kernel depends only on the seed and its weights. So equal kernels are never in
    both groups, and neither the order of the files nor the grouping of nets into files matters.

    Returns:
        threshold, before, after, train and test counts.

    Raises:
        InputError: there are no kernels of that size, none is left after pruning, or one is too large.
    """
    files = list(files)
    with atomic_write(output) as temporary, contextlib.ExitStack() as columns:
        folder = temporary.parent
        chosen = choose(read_all(files, size), size, threshold, files, folder)
        hashed = [columns.enter_context(Column(np.uint64, folder)) for _ in range(1 << BITS)]
        with _create(temporary, chosen.after, size) as store:
            store.attrs.update(
                kernel_size=size,
                threshold=chosen.threshold,
                rule=str(threshold),
                modes=chosen.norms.modes,
                before=chosen.before,
                after=chosen.after,
            )
            _fill(store, read_all(files, size), chosen.threshold, test_fraction, seed, hashed)
            store.attrs["duplicates"] = duplicates = sum(map(_repeated, hashed))
            store["histogram/counts"] = chosen.norms.counts
            store["histogram/log10_edges"] = chosen.norms.log10_edges
            sizes = {name: len(store[name]["norm"]) for name in SPLITS}
        if not all(sizes.values()):
            raise InputError(
                f"kernels: {chosen.after} kernels of {size}×{size} split into {sizes['train']} for training "
                f"and {sizes['test']} for testing ({duplicates} repeat another); neither may be empty: "
                "give more kernels, or change kernels.threshold or kernels.test_fraction"
            )
    if duplicates:
        logger.warning(
            "kernels: %d of the %d %d×%d kernels that are kept repeat another (is a file given twice?); "
            "equal ones are all for training or all for testing",
            *(duplicates, chosen.after, size, size),
        )
    return {"threshold": chosen.threshold, "before": chosen.before, "after": chosen.after, **sizes}


def _fill(
    store: h5py.File,
    batches: Iterable[Batch],
    threshold: float,
    test_fraction: float,
    seed: int,
    hashed: Sequence[Column],
) -> None:
    """Write the kept kernels and the names of their layers to a store, and their hashes by leading bits."""
    layers: dict[str, int] = {}
    groups = {name: _create_group(store, name, store.attrs["kernel_size"]) for name in SPLITS}
    for batch in batches:
        layer = layers.setdefault(batch.layer, len(layers))
        norm = norms(batch.kernels)
        keep = np.flatnonzero(norm >= threshold)
        index = keep + batch.first
        columns = {"kernels": batch.kernels[keep], "norm": norm[keep]}
        columns |= {"net": np.full(len(keep), batch.net), "layer": np.full(len(keep), layer)}
        columns |= {"out": index // batch.inputs, "in": index % batch.inputs}
        hash_ = hashes(columns["kernels"], seed)
        leading = hash_ >> (64 - BITS)
        for bits in np.unique(leading):
            hashed[bits].append(hash_[leading == bits])
        tested = is_held_out(hash_, test_fraction)
        for name, mine in zip(SPLITS, (~tested, tested), strict=True):
            _append(groups[name], {field: values[mine] for field, values in columns.items()})
    store.attrs["layers"] = list(layers)


def _repeated(hashed: Column) -> int:
    """Return how many hashes repeat another."""
    ordered = np.sort(hashed[:])
    return int((ordered[1:] == ordered[:-1]).sum())


def load(path: str | Path, split: str) -> Tensor:
    """Return the kernels of a store, 'train' or 'test', [n, 1, k, k] float32.

    Raises:
        InputError: the file is missing, damaged, or not a kernel store.
    """
    with _opened(path) as store:
        kernels = store[split]["kernels"][:]
        size = int(store.attrs["kernel_size"])
    if kernels.shape[1:] != (1, size, size) or kernels.dtype != np.float32 or not np.isfinite(kernels).all():
        raise InputError(
            f"kernels: {path} is damaged: {split} has shape {kernels.shape}, dtype {kernels.dtype}; "
            f"expected finite float32 [n, 1, {size}, {size}]"
        )
    return torch.from_numpy(kernels)


def kept_norms(path: str | Path) -> dict[str, np.ndarray]:
    """Return the norms of the kernels of a store by split, [n] each.

    Raises:
        InputError: see `load`.
    """
    with _opened(path) as store:
        return {split: store[split]["norm"][:] for split in SPLITS}


@dataclass(frozen=True)
class Pruning:
    """How the kernels of a store were pruned.

    Attributes:
        rule: how the threshold was chosen.
        threshold: the norm below which kernels were dropped.
        modes: number of modes of the norms, 1 or 2.
        before, after: number of kernels before and after pruning.
        duplicates: number of kept kernels that repeat another.
        counts, log10_edges: histogram of all norms, see `dwp.kernels.pruning.Histogram`.
    """

    rule: str
    threshold: float
    modes: int
    before: int
    after: int
    duplicates: int
    counts: np.ndarray
    log10_edges: np.ndarray


def pruning(path: str | Path) -> Pruning:
    """Return how the kernels of a store were pruned.

    Raises:
        InputError: see `load`.
    """
    with _opened(path) as store:
        return Pruning(
            rule=str(store.attrs["rule"]),
            threshold=float(store.attrs["threshold"]),
            modes=int(store.attrs["modes"]),
            before=int(store.attrs["before"]),
            after=int(store.attrs["after"]),
            duplicates=int(store.attrs["duplicates"]),
            counts=store["histogram"]["counts"][:],
            log10_edges=store["histogram"]["log10_edges"][:],
        )


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as store:
            yield store
    except FileNotFoundError:
        raise InputError(f"kernels: there is no file {path}") from None
    except Exception as error:  # HDF5 has many ways to say that a file is damaged
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"kernels: {path} is damaged, or no store of kernels ({reason})") from None


def _create(path: Path, kernels: int, size: int) -> h5py.File:
    # The size without compression: each kernel with its norm and origin, and its hash in another file.
    reserve(path, kernels * 4 * (size * size + 7))
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
