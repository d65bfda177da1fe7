"""Folders with small data sets, in IDX files and in arrays."""

import gzip
import struct

import numpy as np
import pytest

from dwp import data
from dwp.errors import InputError

NAMES = {
    "train-images-idx3-ubyte": (12, 28, 28),
    "train-labels-idx1-ubyte": (12,),
    "t10k-images-idx3-ubyte": (4, 28, 28),
    "t10k-labels-idx1-ubyte": (4,),
}


def idx_bytes(shape):
    """Return an IDX file of this shape: labels count up to 3, images are noise."""
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
    if len(shape) == 1:
        return header + bytes(np.arange(shape[0], dtype=np.uint8) % 4)
    return header + np.random.default_rng(shape[0]).integers(256, size=shape, dtype=np.uint8).tobytes()


def write(folder, compress=True):
    """Write the four files of a small data set."""
    folder.mkdir(parents=True)
    for name, shape in NAMES.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(shape), mtime=0))
        else:
            (folder / name).write_bytes(idx_bytes(shape))


def refused(root, message, name="mnist"):
    """Assert that both functions of the catalogue raise a one-line InputError."""
    with pytest.raises(InputError, match=message) as identity:
        data.identity(name, data_root=root)
    with pytest.raises(InputError, match=message):
        data.build(name, data_root=root, downloads=root / "downloads")
    assert "\n" not in str(identity.value)


def write_arrays(folder, shape=(3, 32, 32), classes=4, **changed):
    """Write the four arrays of a small data set, and return them."""
    generator = np.random.default_rng(0)
    arrays = {
        "train_images": generator.integers(256, size=(12, *shape), dtype=np.uint8),
        "train_labels": np.arange(12, dtype=np.uint8) % classes,
        "test_images": generator.integers(256, size=(4, *shape), dtype=np.uint8),
        "test_labels": np.arange(4) % classes,
    } | changed
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return arrays
