"""A user's data set: a folder with four NumPy arrays, which are read without unpickling.

The arrays are `train_images.npy` and `test_images.npy`, uint8 [n, c, h, w] with h = w, and
`train_labels.npy` and `test_labels.npy`, integers [n]. The labels of C classes are 0 to C - 1; every class
has training images. The folder has the name of the data set.
"""

from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

import numpy as np

from dwp.data.options import Option
from dwp.errors import InputError
from dwp.files import sha256

if TYPE_CHECKING:
    from dwp.data.dataset import Dataset

FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


class ArraySet:
    """A data set in a local folder with four arrays; its methods ignore their argument `folder`.

    Args:
        own: the folder.
        image_shape: (c, h, w) of its images.
    """

    options: dict[str, Option] = {}  # noqa: RUF012

    def __init__(self, own: Path, image_shape: tuple[int, int, int]) -> None:
        self.own, self.image_shape = own, image_shape

    @classmethod
    def of(cls, folder: Path) -> "ArraySet":
        """Return the data set in a folder; its image shape is read from a header.

        Raises:
            InputError: the training images are missing, or not uint8 [n, c, h, h].
        """
        path, images = _map(folder, "train_images")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise InputError(f"{path}: images are {_described(images)}; allowed is uint8 [n, c, h, h]")
        channels, height, width = images.shape[1:]
        return cls(folder, (channels, height, width))

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether any of the four files is in a folder."""
        return any((folder / f"{field}.npy").is_file() for field in FIELDS)

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Check the headers and sizes of the files and return their SHA-256s.

        Raises:
            InputError: a file is missing, damaged or of a wrong dtype or shape.
        """
        self._open()
        return {f"{field}.npy": f"sha256:{sha256(self.own / f'{field}.npy')}" for field in FIELDS}

    def train_size(self, options: dict, folder: Path | None) -> int:
        """Return the number of training images."""
        return len(self._open()["train_images"])

    def build(self, options: dict, folder: Path | None, downloads: Path) -> "Dataset":
        """Return the data set.

        Raises:
            InputError: a file is missing, damaged or of a wrong dtype or shape.
        """
        import torch

        from dwp.data.dataset import Dataset

        arrays = self._open()
        tensors = {
            field: torch.from_numpy(np.array(array, np.uint8 if array.ndim == 4 else np.int64, order="C"))
            for field, array in arrays.items()
        }
        return Dataset(self.own.name, **tensors)

    def _open(self) -> dict[str, np.ndarray]:
        """Check the arrays and return them, memory-mapped."""
        arrays = {}
        for field in FIELDS:
            path, arrays[field] = _map(self.own, field)
            self._check(path, arrays[field], field)
        for split in ("train", "test"):
            images, labels = len(arrays[f"{split}_images"]), len(arrays[f"{split}_labels"])
            if images != labels:
                path = self.own / f"{split}_labels.npy"
                raise InputError(f"{path}: {labels} labels for the {images} images of {split}_images.npy")
        _check_classes(self.own, np.unique(arrays["train_labels"]), np.unique(arrays["test_labels"]))
        return arrays

    def _check(self, path: Path, array: np.ndarray, field: str) -> None:
        if field.endswith("images"):
            if array.dtype != np.uint8 or array.shape[1:] != self.image_shape:
                allowed = ", ".join(map(str, self.image_shape))
                raise InputError(f"{path}: images are {_described(array)}; allowed is uint8 [n, {allowed}]")
        elif array.dtype.kind not in "iu" or array.ndim != 1:
            raise InputError(f"{path}: labels are {_described(array)}; allowed are integers [n]")


def _map(folder: Path, field: str) -> tuple[Path, np.ndarray]:
    """Return the path of a field and its memory-mapped array, after checking that it is not empty."""
    path = folder / f"{field}.npy"
    if not path.is_file():
        raise InputError(f"{path} is missing; expected {', '.join(f'{name}.npy' for name in FIELDS)}")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, SyntaxError, TokenError) as error:  # the last two: from a damaged header
        raise InputError(f"{path}: cannot be read as an array ({error})") from error
    if array.size == 0:
        raise InputError(f"{path}: empty, {list(array.shape)}; at least one image is needed")
    return path, array


def _check_classes(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    """Raise InputError for labels other than 0 to C - 1; both arrays hold distinct, ascending labels."""
    if not np.array_equal(train, np.arange(len(train))):
        raise InputError(
            f"{folder / 'train_labels.npy'}: there are {len(train)} classes, with labels from {train[0]} "
            f"to {train[-1]}; allowed are 0 to {len(train) - 1}"
        )
    if unknown := sorted({*test.tolist()} - {*train.tolist()}):
        raise InputError(
            f"{folder / 'test_labels.npy'}: has label {unknown[0]}; the train labels go from 0 to {train[-1]}"
        )


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
