"""Kernels collected from files and pruned, in memory; and their norms, hashes and held-out part.

Files are read twice: for the norms of all kernels, which are kept in a temporary file and give the
threshold, and for the kernels themselves.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dwp.errors import InputError
from dwp.kernels.files import expand
from dwp.kernels.pruning import Histogram, choose_threshold, halves_a_single_mode, histogram, parts
from dwp.kernels.readers import Batch, read

# Added to the seed of a sample, so that being in the sample and being held out are independent.
SAMPLE = 2**32

logger = logging.getLogger(__name__)


class Column:
    """Numbers in a temporary file, appended and then read in parts; a context that deletes the file.

    They are not memory-mapped, since the pages of a map count as memory of the process.

    Args:
        dtype: of the numbers.
        folder: where the file is; None: the usual folder of temporary files.
    """

    def __init__(self, dtype: type[np.generic], folder: Path | None = None) -> None:
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._length = 0

    def __enter__(self) -> "Column":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, values: np.ndarray) -> None:
        """Append numbers [n]; all appends come before the first read."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._length += len(values)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, chosen: slice) -> np.ndarray:
        first, last, _ = chosen.indices(self._length)
        self._file.seek(first * self._dtype.itemsize)
        return np.frombuffer(self._file.read((last - first) * self._dtype.itemsize), dtype=self._dtype)


def norms(kernels: np.ndarray) -> np.ndarray:
    """Return the Euclidean norm of each kernel [n, 1, k, k], [n] float32."""
    with np.errstate(over="ignore"):
        return np.sqrt(np.square(kernels, dtype=np.float64).sum((1, 2, 3))).astype(np.float32)


def hashes(kernels: np.ndarray, seed: int) -> np.ndarray:
    """Return a hash of each kernel [n, 1, k, k] float32, [n] uint64; equal kernels have equal hashes.

    This is multilinear hashing: the bits of each number, as an integer, times a random factor for
    its position and the seed, summed modulo 2⁶⁴. Over random factors, the upper halves of the hashes
    of two different kernels are independent and uniform. It is not cryptographic.
    """
    # Zero is added because −0 equals 0 but has different bits.
    bits = np.add(kernels, 0, dtype=np.float32, order="C").view(np.uint32)
    bits = bits.reshape(len(kernels), int(np.prod(kernels.shape[1:])))
    factors = np.random.PCG64(seed).random_raw(bits.shape[1] + 1)
    return np.einsum("ni,i->n", bits, factors[1:]) + factors[0]


def is_held_out(hashed: np.ndarray, fraction: float) -> np.ndarray:
    """Return which kernels are in a held-out fraction, by their hashes [n], [n] bool."""
    return (hashed >> 32) / 2**32 < fraction


@dataclass(frozen=True)
class Choice:
    """The threshold for some kernels, and what it was chosen from.

    Attributes:
        norms: histogram of all norms.
        threshold: the norm below which kernels are dropped.
        before, after: number of kernels before and after pruning.
    """

    norms: Histogram
    threshold: float
    before: int
    after: int


def choose(
    batches: Iterable[Batch],
    size: int,
    rule: str | float,
    files: Sequence[str | Path],
    folder: Path | None = None,
) -> Choice:
    """Choose the threshold for the size×size kernels in batches, see `dwp.kernels.pruning`.

    Args:
        batches: all kernels.
        size: k, for messages.
        rule: the threshold, or the rule that chooses it.
        files: where the kernels come from, for messages.
        folder: where the temporary file of norms is.

    Raises:
        InputError: there are no kernels, fewer than two are left after pruning, or one is too large.
    """
    largest = 0.0
    with Column(np.float32, folder) as values:
        for batch in batches:
            norm = norms(batch.kernels)
            if not np.isfinite(norm).all():
                bad = np.argmax(~np.isfinite(norm)) + batch.first
                raise InputError(
                    f"kernels: net {batch.net}, {batch.layer}: kernel {bad} has numbers "
                    f"up to {np.abs(batch.kernels).max():g}; float32 cannot hold its norm"
                )
            values.append(norm)
            largest = max(largest, float(norm.max(initial=0)))
        if not len(values):
            names = ", ".join(map(str, files[:3]))
            raise InputError(f"kernels: there is no {size}×{size} kernel in {names}")
        before, found = len(values), histogram(values)
        threshold = choose_threshold(found, rule)
        kept = sum(int((part >= threshold).sum()) for part in parts(values))
        if kept < 2:
            raise InputError(
                f"kernels.threshold: {threshold:g} leaves {kept} of {before} {size}×{size} kernels "
                f"(largest norm {largest:g}); give a smaller number"
            )
    if halves_a_single_mode(found, rule):
        logger.warning(
            "kernels.threshold: the norms of the %d %d×%d kernels have a single mode, which otsu cuts in two "
            "at %.3g, dropping %d; look at the report's figure of norms and give a number (0 keeps all)",
            *(before, size, size, threshold, before - kept),
        )
    return Choice(found, threshold, before, kept)


def read_all(files: Iterable[str | Path], size: int) -> Iterator[Batch]:
    """Yield the size×size kernels of files, which count as networks 0, 1, … where they do not name them."""
    for number, path in enumerate(files):
        yield from read(path, size, number)


def collect(
    paths: str | Path | Iterable[str | Path],
    size: int,
    *,
    threshold: str | float = "otsu",
    most: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return the size×size kernels of trained networks, without those of near-zero norm.

    Kernels keep their scale, which is part of what a prior learns.

    Args:
        paths: files, or folders of them: checkpoints (`.safetensors`; `.pt` and `.pth`, of which only
            tensors are unpickled; `.onnx`) and arrays (`.npy`, `.h5`), see `dwp.kernels.readers.read`.
        size: k.
        threshold: norm below which kernels are dropped (0 keeps all), or the rule that chooses it:
            'otsu', which cuts norms of a single mode in two with a warning, or 'valley', which refuses
            them; see `dwp.kernels.pruning`.
        most: return a random sample of at most this many kernels, so that any number can be read; None:
            return all. The sample does not depend on the order of the files.
        seed: seed of the sample.

    Returns:
        Kernels [n, 1, k, k], float32, in the order of the files.

    Raises:
        InputError: no path is given or one does not exist, a file cannot be read, there are no kernels of
            that size, or fewer than two are left.
    """
    files = expand(paths)
    if not files:
        raise InputError("kernels: no file is given")
    if most is not None and most < 2:
        raise InputError(f"kernels: most is {most}; expected a whole number from 2")
    chosen = choose(read_all(files, size), size, threshold, files)
    kept = (batch.kernels[norms(batch.kernels) >= chosen.threshold] for batch in read_all(files, size))
    if most is not None:
        return torch.from_numpy(_sample(kept, most, seed))
    kernels = np.empty((chosen.after, 1, size, size), np.float32)
    first = 0
    for batch in kept:
        kernels[first : first + len(batch)] = batch
        first += len(batch)
    return torch.from_numpy(kernels)


def _sample(batches: Iterable[np.ndarray], most: int, seed: int) -> np.ndarray:
    """Return the kernels with the smallest hashes, in order: a random sample in bounded memory."""
    pool: list[tuple[np.ndarray, ...]] = []  # kernels, hashes and places of candidates
    seen = waiting = 0
    limit = np.iinfo(np.uint64).max
    for batch in batches:
        hashed = hashes(batch, seed + SAMPLE)
        low = np.flatnonzero(hashed <= limit)
        if len(low):
            pool.append((batch[low], hashed[low], seen + low))
        seen, waiting = seen + len(batch), waiting + len(low)
        if waiting > 2 * most:
            pool, waiting = [_smallest(pool, most)], most
            limit = pool[0][1].max()
    kernels, _, place = _smallest(pool, most)
    return kernels[place.argsort()]


def _smallest(pool: list[tuple[np.ndarray, ...]], most: int) -> tuple[np.ndarray, ...]:
    columns = tuple(np.concatenate(parts) for parts in zip(*pool, strict=True))
    if len(columns[1]) <= most:
        return columns
    chosen = columns[1].argpartition(most)[:most]
    return tuple(column[chosen] for column in columns)


def split(kernels: Tensor, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split kernels [n, 1, k, k] into training and held-out ones; equal kernels are on the same side.

    The split of a kernel depends only on the seed and its weights, as in the workflow.

    Raises:
        InputError: one of the two parts would be empty.
    """
    mask = torch.from_numpy(is_held_out(hashes(kernels.detach().cpu().float().numpy(), seed), fraction))
    mask = mask.to(kernels.device)
    if mask.all() or not mask.any():
        raise InputError(
            f"kernels: {len(mask)} kernels split into {int((~mask).sum())} for training and "
            f"{int(mask.sum())} for testing; neither may be empty: give more kernels, or another fraction"
        )
    return kernels[~mask], kernels[mask]
