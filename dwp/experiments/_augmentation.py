"""Copies of training images, moved, turned and distorted at random."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dwp.settings import setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How many copies of each training image to make, and how far they may differ from it."""

    copies: int = setting("copies of each image, in addition to itself", 16, ge=1)
    shift: float = setting("largest shift along each axis", 0.0, unit="pixels", ge=0)
    rotation: float = setting("largest rotation", 0.0, unit="degrees", ge=0, le=180)
    scale: float = setting("largest relative change of size", 0.0, ge=0, lt=1)
    shear: float = setting("largest shear along each axis", 0.0, unit="degrees", ge=0, lt=90)


class Examples(NamedTuple):
    """Training images and their labels, with or without copies."""

    images: "Tensor"
    """The `originals` images, [originals, c, h, w], and after them as many of each set of copies."""
    labels: "Tensor"
    originals: int
    """Images that are no copies; they come first."""

    @property
    def versions(self) -> int:
        """Return the number of versions of each image: 1 without copies."""
        return len(self.labels) // self.originals


def augmented(images: "Tensor", labels: "Tensor", settings: Augmentation | None, seed: int) -> Examples:
    """Return images with copies; what is moved in is black.

    Args:
        images: [n, c, h, w], with values from 0 to 1.
        labels: [n].
        settings: None makes no copies.
        seed: seed of the random numbers.
    """
    if settings is None:
        return Examples(images, labels, len(labels))

    import torch

    from dwp.nn.seeding import seeded
    from dwp.torchvision_import import torchvision_datasets

    torchvision_datasets()  # makes `transforms` importable with a CPU-only PyTorch
    from torchvision.transforms import InterpolationMode, RandomAffine

    height, width = images.shape[-2:]
    change = RandomAffine(
        settings.rotation,
        translate=(min(1.0, settings.shift / width), min(1.0, settings.shift / height)),
        scale=(1 - settings.scale, 1 + settings.scale),
        shear=(-settings.shear, settings.shear, -settings.shear, settings.shear),
        interpolation=InterpolationMode.BILINEAR,
    )
    with seeded(seed):
        copies = [change(image) for _ in range(settings.copies) for image in images.cpu()]
    together = torch.cat([images, torch.stack(copies).to(images)])
    return Examples(together, labels.repeat(settings.copies + 1), len(labels))
