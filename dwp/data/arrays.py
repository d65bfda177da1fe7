"""Read a data set of one's own: four NumPy arrays, without unpickling anything.

`train_images.npy` and `test_images.npy`, uint8 [n, c, h, w], with `train_labels.npy` and
`test_labels.npy`, integers [n] from 0.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dwp.data.options import Option
from dwp.errors import InputError
from dwp.files import sha256

if TYPE_CHECKING:
    from dwp.data.dataset import Dataset

FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


class ArraySet:
    """A set in a local folder that holds four arrays; see the module.

    Args:
        name: of the data set that the arrays stand for.
        image_shape: [c, h, w] of its images.
    """

    options: dict[str, Option] = {}  # noqa: RUF012

    def __init__(self, name: str, image_shape: tuple[int, int, int]):
        self.name, self.image_shape = name, image_shape

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether any of the four files is in a folder."""
        return any((folder / f"{field}.npy").is_file() for field in FIELDS)

    def checksums(self, options: dict, folder: Path) -> dict[str, str]:
        """Return the SHA-256s of the files, after checking their headers and sizes."""
        self._open(folder)
        return {f"{field}.npy": f"sha256:{sha256(folder / f'{field}.npy')}" for field in FIELDS}

    def train_size(self, options: dict, folder: Path) -> int:
        """Return the number of training images."""
        return len(self._open(folder)["train_images"])

    def build(self, options: dict, folder: Path, downloads: Path) -> "Dataset":
        """Return the data set; InputError for bad files."""
        import torch

        from dwp.data.dataset import Dataset

        arrays = self._open(folder)
        tensors = {
            field: torch.from_numpy(np.array(array, np.uint8 if array.ndim == 4 else np.int64, order="C"))
            for field, array in arrays.items()
        }
        return Dataset(self.name, **tensors)

    def _open(self, folder: Path) -> dict[str, np.ndarray]:
        """Return the arrays, mapped and not read; raise InputError naming the file for what is wrong."""
        arrays = {}
        for field in FIELDS:
            path = folder / f"{field}.npy"
            if not path.is_file():
                raise InputError(f"{path} is missing; expected {', '.join(f'{name}.npy' for name in FIELDS)}")
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{path}: cannot be read as an array ({error})") from error
            self._check(path, array, field)
            arrays[field] = array
        for split in ("train", "test"):
            images, labels = len(arrays[f"{split}_images"]), len(arrays[f"{split}_labels"])
            if images != labels:
                path = folder / f"{split}_labels.npy"
                raise InputError(f"{path}: {labels} labels for the {images} images of {split}_images.npy")
        return arrays

    def _check(self, path: Path, array: np.ndarray, field: str) -> None:
        found = f"{array.dtype} {list(array.shape)}"
        if field.endswith("images"):
            if array.dtype != np.uint8 or array.shape[1:] != self.image_shape:
                raise InputError(
                    f"{path}: images are {found}; allowed is uint8 [n, {_list(self.image_shape)}]"
                )
        elif array.dtype.kind not in "iu" or array.ndim != 1:
            raise InputError(f"{path}: labels are {found}; allowed are integers [n]")
        if len(array) == 0:
            raise InputError(f"{path}: empty; at least one image is needed")


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
