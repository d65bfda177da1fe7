"""Glyphs: letters in the fonts that Matplotlib ships, a small notMNIST.

Each (style, font, letter) is drawn once at high resolution. An image is a random affine view of one of
these masters, with a blot, reduced contrast and noise. On easy letters networks learn too few kernels, so
the defaults make the set about as hard as notMNIST.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dwp.data.options import Option
from dwp.errors import InputError
from dwp.files import sha256

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

    from dwp.data.dataset import Dataset

STYLES = ("plain", "thickened", "outline", "inverted")
# Listed explicitly, since a font added to Matplotlib must not change the data.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmti10", "cmmi10", "cmss10", "cmtt10"),
)
SIDE = 28

# A master in pixels: the letter's box, a margin for thick strokes and inverted boxes, and a black
# border, which stands for everything outside.
_BOX, _MARGIN, _BORDER = 32, 4, 1
_MASTER = _BOX + 2 * (_MARGIN + _BORDER)
_OVERSAMPLING = 2
# Letters narrower than this share of their height (the I) are not stretched to their box's width.
_NARROWEST = 0.6
_BATCH = 1_000


class Glyphs:
    """Letters in many fonts and styles, warped and blotted; balanced classes.

    Args:
        name: name of the data set.
        letters: the classes.
    """

    image_shape = (1, 28, 28)
    options = {  # noqa: RUF012
        "train": Option(20_000, 10, 10_000_000),
        "test": Option(2_000, 10, 10_000_000),
        "seed": Option(0, 0, 2**63 - 1),
        # Shares of the images in each style; the rest is plain.
        "thickened": Option(0.2, 0.0, 1.0),
        "outline": Option(0.15, 0.0, 1.0),
        "inverted": Option(0.1, 0.0, 1.0),
        "rotation": Option(14.0, 0.0, 180.0),  # standard deviation, degrees
        "shear": Option(0.3, 0.0, 2.0),  # standard deviation
        "shift": Option(3.0, 0.0, 14.0),  # largest, pixels
        "blots": Option(0.3, 0.0, 1.0),  # share of images with a black or white rectangle
        "contrast": Option(0.7, 0.0, 1.0),  # lowest
        "noise": Option(12.0, 0.0, 255.0),  # standard deviation, of 255
    }

    def __init__(self, name: str, letters: str) -> None:
        self.name, self.letters = name, letters

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Return one checksum of all fonts, the only files that the data set depends on."""
        _style_shares(self.name, options)  # raises before anything is built
        digests = "".join(sha256(path) for path in _font_paths())
        return {"fonts": "sha256:" + hashlib.sha256(digests.encode()).hexdigest()}

    def train_size(self, options: dict, folder: Path | None) -> int:
        """Return the number of training images."""
        return options["train"]

    def build(self, options: dict, folder: Path | None, downloads: Path) -> "Dataset":
        """Return images uint8 [n, 1, 28, 28], white on black.

        Raises:
            InputError: the shares of the styles sum to more than 1, or a font is missing.
        """
        import torch

        from dwp.data.dataset import Dataset

        shares, masters = _style_shares(self.name, options), _masters(self.letters)
        tensors = []
        for stream, split in enumerate(("train", "test")):
            # A separate stream, so that the test set does not depend on the size of the training set.
            generator = np.random.default_rng([options["seed"], stream])
            images, labels = _draw(masters, shares, options[split], options, generator)
            tensors += [torch.from_numpy(images), torch.from_numpy(labels)]
        return Dataset(self.name, *tensors)


def _style_shares(name: str, options: dict) -> list[float]:
    shares = [options[style] for style in STYLES[1:]]
    plain = 1 - sum(shares)
    if plain < -1e-9:
        raise InputError(
            f"data set {name}: options thickened, outline and inverted are {shares}; "
            "allowed are shares that sum to at most 1"
        )
    return [max(plain, 0.0), *shares]


def _font_paths() -> list[Path]:
    # The folder in its wheel; otherwise the one that Matplotlib returns, which is slow to import.
    found = importlib.util.find_spec("matplotlib")
    folder = Path((found and found.origin) or "nowhere").parent / "mpl-data" / "fonts" / "ttf"
    if not folder.is_dir():
        import matplotlib

        folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = [folder / f"{font}.ttf" for font in FONTS]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"data set glyphs: {path} is missing; it is part of Matplotlib, install it whole"
            )
    return paths


def _masters(letters: str) -> np.ndarray:
    """Return every letter in every font and style, float32 [styles, fonts, letters, side, side] in [0, 1]."""
    from PIL import ImageFont

    masters = np.zeros((len(STYLES), len(FONTS), len(letters), _MASTER, _MASTER), np.float32)
    inside = slice(_BORDER, -_BORDER)
    for i, path in enumerate(_font_paths()):
        font = ImageFont.truetype(str(path), _BOX * _OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)
        for j, letter in enumerate(letters):
            for k, image in enumerate(_styled(_letter(font, letter))):
                masters[k, i, j, inside, inside] = np.asarray(image.reduce(_OVERSAMPLING), np.float32) / 255
    return masters


def _letter(font: "FreeTypeFont", letter: str) -> "Image":
    """Return `letter` as a large grey image, stretched to its box unless it is very narrow."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = map(round, font.getbbox(letter))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), letter, font=font, fill=255)
    drawn = drawn.crop(drawn.getbbox())
    box, side = _BOX * _OVERSAMPLING, (_BOX + 2 * _MARGIN) * _OVERSAMPLING
    width = round(box * min(1.0, drawn.width / (_NARROWEST * drawn.height)))
    image = Image.new("L", (side, side))
    image.paste(drawn.resize((width, box)), ((side - width) // 2, (side - box) // 2))
    return image


def _styled(image: "Image") -> tuple["Image", ...]:
    """Return a large image in the four STYLES."""
    from PIL import ImageChops, ImageFilter

    thickened = image.filter(ImageFilter.MaxFilter(7))
    wider, narrower = image.filter(ImageFilter.MaxFilter(5)), image.filter(ImageFilter.MinFilter(5))
    return image, thickened, ImageChops.subtract(wider, narrower), ImageChops.invert(image)


def _draw(
    masters: np.ndarray, shares: list[float], n: int, options: dict, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return `n` images, uint8 [n, 1, 28, 28], and their labels, int64 [n], class counts equal within one."""
    labels = generator.permutation(np.arange(n, dtype=np.int64) % masters.shape[2])
    images = np.empty((n, 1, SIDE, SIDE), np.uint8)
    for start in range(0, n, _BATCH):
        batch = labels[start : start + _BATCH]
        style = generator.choice(len(STYLES), size=len(batch), p=shares)
        font = generator.integers(len(FONTS), size=len(batch))
        grey = _warp(masters, (style, font, batch), options, generator)
        _blot(grey, options["blots"], generator)
        grey *= generator.uniform(options["contrast"], 1, size=(len(batch), 1, 1)).astype(np.float32)
        grey *= 255
        grey += generator.standard_normal(grey.shape, np.float32) * np.float32(options["noise"])
        images[start : start + len(batch), 0] = np.clip(np.rint(grey), 0, 255)
    return images, labels


def _warp(
    masters: np.ndarray, chosen: tuple[np.ndarray, ...], options: dict, generator: np.random.Generator
) -> np.ndarray:
    """Return random affine views of the `chosen` masters (styles, fonts, letters), float32 [n, 28, 28]."""
    n = len(chosen[0])
    angle = np.deg2rad(generator.normal(0, options["rotation"], n))
    shear = generator.normal(0, options["shear"], n)
    width, height = generator.uniform(16, 30, n), generator.uniform(20, 30, n)
    shift = generator.uniform(-options["shift"], options["shift"], (2, n))

    # From image to master: undo shift, rotation, shear and scale, in this order.
    cos, sin = np.cos(angle), np.sin(angle)
    inverse = np.empty((2, 2, n))
    inverse[1] = np.stack([-sin, cos]) * (_BOX / height)
    inverse[0] = (np.stack([cos, sin]) - shear * np.stack([-sin, cos])) * (_BOX / width)
    centre = (_MASTER - 1) / 2
    offset = centre - np.einsum("ijn,jn->in", inverse, shift)

    pixel = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    a, b = inverse.astype(np.float32)[..., None, None], offset.astype(np.float32)[..., None, None]
    x, y = (a[i, 0] * pixel[None, None, :] + a[i, 1] * pixel[None, :, None] + b[i] for i in (0, 1))
    return _bilinear(masters, np.ravel_multi_index(chosen, masters.shape[:3]), x, y)


def _bilinear(masters: np.ndarray, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return masters[index] at the positions x, y (float32 [n, 28, 28]), interpolated."""
    # The border is black, so clamping to just inside the master is the same as zeros outside.
    x, y = (np.clip(position, 0, _MASTER - 1.001) for position in (x, y))
    column, row = x.astype(np.int32), y.astype(np.int32)
    x -= column
    y -= row
    flat, first = masters.reshape(-1), index[:, None, None] * _MASTER**2 + row * _MASTER + column
    above = flat[first] * (1 - x) + flat[first + 1] * x
    below = flat[first + _MASTER] * (1 - x) + flat[first + _MASTER + 1] * x
    return above * (1 - y) + below * y


def _blot(grey: np.ndarray, share: float, generator: np.random.Generator) -> None:
    """Cover, in place, a rectangle of 4-10 pixels a side, black or white, in a `share` of the images."""
    n = len(grey)
    covered, white = generator.random(n) < share, generator.random(n) < 0.5
    sides = generator.integers(4, 11, (n, 2))
    corners = generator.integers(0, SIDE - sides + 1)
    for i in np.flatnonzero(covered):
        (row, column), (height, width) = corners[i], sides[i]
        grey[i, row : row + height, column : column + width] = white[i]
