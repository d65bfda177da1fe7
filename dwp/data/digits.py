"""The 1,797 handwritten digits of scikit-learn in MNIST's format."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dwp.data.options import Option

if TYPE_CHECKING:
    from dwp.data.dataset import Dataset


class Digits:
    """Digits of 8×8 pixels, enlarged to 20×20 and padded to 28×28 like MNIST's; a stratified split."""

    # 1,000 images remain for training by default; both splits need every class.
    image_shape = (1, 28, 28)
    options = {"test": Option(797, 10, 1_787), "seed": Option(0, 0, 2**32 - 1)}  # noqa: RUF012

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Return no checksums: the images are part of scikit-learn and have never changed."""
        return {}

    def train_size(self, options: dict, folder: Path | None) -> int:
        """Return the number of training images."""
        return 1_797 - options["test"]

    def build(self, options: dict, folder: Path | None, downloads: Path) -> "Dataset":
        """Return images uint8 [n, 1, 28, 28], 10 classes."""
        import torch
        from PIL import Image
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        from dwp.data.dataset import Dataset

        small, labels = load_digits(return_X_y=True)
        small = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        padded = np.zeros((len(small), 1, 28, 28), np.uint8)
        for image, source in zip(padded, small, strict=True):
            enlarged = Image.fromarray(source).resize((20, 20), Image.Resampling.BICUBIC)
            image[0, 4:24, 4:24] = np.asarray(enlarged)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=options["test"], stratify=labels, random_state=options["seed"]
        )
        images, labels = torch.from_numpy(padded), torch.from_numpy(labels.astype(np.int64))
        return Dataset("digits", images[train], labels[train], images[test], labels[test])
