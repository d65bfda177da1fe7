"""Read IDX files, the format of MNIST: a big-endian header, then unsigned bytes.

Header: two zero bytes, 0x08 (unsigned byte), the number of dimensions, then
each dimension as 32 bits.  Files may be compressed with gzip.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from dwp.errors import InputError

# Field names of a data set and the standard names of its four files, with their dimensions.
FILES = {
    "train_images": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test_images": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}
_CHUNK = 1 << 20


def find(folder: Path) -> dict[str, Path]:
    """Return the paths of the four files in `folder`, by field name.

    Raises:
        InputError: a file is missing.
    """
    paths = {}
    for field, (name, _) in FILES.items():
        there = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not there:
            raise InputError(f"{folder}: {name} is missing; expected it or {name}.gz")
        paths[field] = there[0]
    return paths


def check(paths: dict[str, Path], image: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Check the four files and return the shapes of their arrays, by field name.

    Args:
        paths: paths of the files, by field name.
        image: shape of an image, (h, w).

    Raises:
        InputError: a file cannot be read, its header is wrong or does not match its size, images have
            a wrong shape, or the numbers of images and labels differ.
    """
    shapes = {field: _check_file(path, FILES[field][1]) for field, path in paths.items()}
    for split in ("train", "test"):
        images, labels = paths[f"{split}_images"], paths[f"{split}_labels"]
        if shapes[f"{split}_images"][1:] != image:
            found, expected = shapes[f"{split}_images"][1:], image
            raise InputError(f"{images}: images are {list(found)}; this data set has {list(expected)}")
        counts = shapes[f"{split}_images"][0], shapes[f"{split}_labels"][0]
        if counts[0] != counts[1]:
            raise InputError(f"{labels}: {counts[1]} labels for the {counts[0]} images of {images.name}")
    return shapes


def read(paths: dict[str, Path], image: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the arrays of the four files, uint8 [n, h, w] and [n].

    Raises:
        InputError: see `check`.
    """
    arrays = {}
    for field, shape in check(paths, image).items():
        with _open(paths[field]) as file:
            file.seek(4 + 4 * len(shape))
            arrays[field] = np.frombuffer(bytearray(file.read()), np.uint8).reshape(shape)
    return arrays


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _check_file(path: Path, ndim: int) -> tuple[int, ...]:
    try:
        with _open(path) as file:
            shape = _read_header(file, path, ndim)
            expected = 4 + 4 * ndim + math.prod(shape)
            found, complete = _size(file, path, expected)
    except (OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if found != expected or not complete:
        state = "truncated" if found <= expected else "too long"
        end = "" if complete else " before its end was missing"
        raise InputError(
            f"{path}: {state}; expected {expected} bytes (uncompressed) for shape {list(shape)}, "
            f"found {found}{end}"
        )
    return shape


def _read_header(file: BinaryIO, path: Path, ndim: int) -> tuple[int, ...]:
    size = 4 + 4 * ndim
    try:
        header = file.read(size)
    except EOFError:  # raised by gzip for a truncated file
        header = b""
    if len(header) < size:
        raise InputError(f"{path}: truncated; expected a header of {size} bytes, found {len(header)}")
    magic, *shape = struct.unpack(f">{1 + ndim}I", header)
    if magic != 0x0800 + ndim:
        raise InputError(f"{path}: wrong header; expected magic number {0x0800 + ndim:#x}, found {magic:#x}")
    if 0 in shape:
        raise InputError(f"{path}: empty; its header gives the shape {shape}")
    return tuple(shape)


def _size(file: BinaryIO, path: Path, expected: int) -> tuple[int, bool]:
    """Return the uncompressed size, and whether the compressed stream is complete."""
    if path.suffix != ".gz":
        return path.stat().st_size, True
    # Decompressed as a stream up to its checksum, but not far beyond the size in the header.
    size = file.tell()
    try:
        while size <= expected and (chunk := file.read(_CHUNK)):
            size += len(chunk)
    except EOFError:
        return size, False
    return size, True
