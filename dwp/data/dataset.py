"""Data sets in memory and as files."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dwp.errors import InputError
from dwp.files import save_tensors

SPLITS = ("train", "test")
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split into train and test.

    Attributes:
        name: name of the data set.
        train_images, test_images: uint8 [n, c, h, w] with h = w.
        train_labels, test_labels: int64 [n], from 0.

    Raises:
        InputError: a tensor has a wrong dtype, shape or range.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def __post_init__(self) -> None:
        for split in SPLITS:
            self._check_split(split)
        train, test = (tuple(images.shape[1:]) for images in (self.train_images, self.test_images))
        if train != test:
            self._refuse(f"test images are {test}; allowed is the shape of the train images, {train}")
        if (highest := int(self.test_labels.max())) >= self.classes:
            self._refuse(f"test_labels contain {highest}; the train labels go from 0 to {self.classes - 1}")

    def _check_split(self, split: str) -> None:
        images, labels = self._tensor(split, "images"), self._tensor(split, "labels")
        for what, tensor, dtype, dims in (
            ("images", images, torch.uint8, "[n, c, h, w]"),
            ("labels", labels, torch.int64, "[n]"),
        ):
            if tensor.dtype != dtype or tensor.ndim != dims.count(",") + 1:
                found = f"{tensor.dtype} {list(tensor.shape)}"
                self._refuse(f"{split}_{what} are {found}; allowed is {dtype} {dims}")
        if images.numel() == 0:
            self._refuse(f"{split}_images are empty, {list(images.shape)}; at least one image is needed")
        if images.shape[2] != images.shape[3]:
            self._refuse(f"{split}_images are {list(images.shape)}; allowed are square images")
        if len(images) != len(labels):
            self._refuse(
                f"{len(images)} {split}_images but {len(labels)} {split}_labels; allowed are as many"
            )
        if (lowest := int(labels.min())) < 0:
            self._refuse(f"{split}_labels contain {lowest}; allowed are labels from 0")

    def _refuse(self, problem: str) -> None:
        raise InputError(f"data set {self.name}: {problem}")

    def _tensor(self, split: str, what: str) -> torch.Tensor:
        if split not in SPLITS:
            raise InputError(f"data set {self.name}: unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        return getattr(self, f"{split}_{what}")

    @property
    def classes(self) -> int:
        """Return the number of classes: the highest train label + 1."""
        return int(self.train_labels.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape (c, h, w) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def images(self, split: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the images of "train" or "test" as float32 [n, c, h, w] in [0, 1] on `device`."""
        # Moved as bytes, a quarter of the size of floats.
        return self._tensor(split, "images").to(device).to(torch.float32).div_(255)

    def labels(self, split: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the labels of "train" or "test" as int64 [n] on `device`."""
        return self._tensor(split, "labels").to(device)


def save(dataset: Dataset, path: str | Path) -> None:
    """Write a data set to a safetensors file; equal data sets give equal bytes.

    Raises:
        StorageError: see `files.atomic_write`.
    """
    tensors = {key: getattr(dataset, key).cpu().contiguous() for key in _TENSORS}
    # One metadata key, since safetensors writes several in arbitrary order.
    save_tensors(tensors, path, {"name": dataset.name})


def load(path: str | Path) -> Dataset:
    """Load a data set saved by `save`.

    Raises:
        InputError: the file is missing, damaged or not a data set.
    """
    try:
        with safe_open(path, framework="pt") as file:
            name = (file.metadata() or {})["name"]
            tensors = {key: file.get_tensor(key) for key in _TENSORS}
    except (OSError, SafetensorError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a readable data set file ({reason}); build it again") from error
    try:
        return Dataset(name, **tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
