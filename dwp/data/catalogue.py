"""The data sets by name: one table, and the two questions asked of it.

A source is an object with `image_shape`, `options` (name -> Option), `checksums(options, folder)`,
`train_size(options, folder)` and `build(options, folder, downloads)`; `folder` is the user's
local copy or None.
A new data set is one new line in SOURCES.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dwp.data.arrays import ArraySet
from dwp.data.digits import Digits
from dwp.data.downloaded import CifarSet, IdxSet, SvhnSet, notmnist_remotes, torchvision_remotes
from dwp.data.glyphs import Glyphs
from dwp.data.options import resolve
from dwp.errors import InputError

if TYPE_CHECKING:
    from dwp.data.dataset import Dataset

SOURCES = {
    "glyphs": Glyphs(),
    "digits": Digits(),
    "mnist": IdxSet("mnist", torchvision_remotes("MNIST")),
    "notmnist": IdxSet("notmnist", notmnist_remotes),
    "fashion-mnist": IdxSet("fashion-mnist", torchvision_remotes("FashionMNIST")),
    "kmnist": IdxSet("kmnist", torchvision_remotes("KMNIST")),
    "cifar10": CifarSet("cifar10", "CIFAR10"),
    "cifar100": CifarSet("cifar100", "CIFAR100"),
    "svhn": SvhnSet("svhn"),
}
NAMES = tuple(SOURCES)
EMBEDDED = ("glyphs", "digits")


def build(
    name: str,
    *,
    data_root: str | Path | None = None,
    downloads: str | Path,
    options: Mapping | None = None,
) -> "Dataset":
    """Build the data set `name`: rendered, read from a local folder, or downloaded.

    A folder `<data_root>/<name>` wins over the download: for the MNIST family
    the four IDX files, gzip or not, with any number of images; for CIFAR and
    SVHN the files as torchvision leaves them in its `root`; and for any of
    them, before these, four arrays of one's own (see `dwp.data.arrays`).
    Without a folder, the verified downloads go to `<downloads>/<name>`, in the
    same layout.

    Raises InputError for an unknown name or option, a local file that is
    missing, damaged or of the wrong format, and a failed download.
    """
    source, resolved, folder = _resolve(name, data_root, options)
    return source.build(resolved, folder, Path(downloads))


def identity(name: str, *, data_root: str | Path | None = None, options: Mapping | None = None) -> dict:
    """Return what the bytes of `build` depend on, as a JSON-able dict, building nothing.

    Keys: `name`, `options` (all of them, resolved) and `files` (relative name
    -> "algorithm:checksum" of the local files or of the downloads).  Local
    files are checked on the way: raises what `build` would raise for them.
    """
    source, resolved, folder = _resolve(name, data_root, options)
    return {"name": name, "options": resolved, "files": source.checksums(resolved, folder)}


def image_shape(name: str) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images of a known set, without reading them."""
    return _resolve(name, None, None)[0].image_shape


def train_size(
    name: str, *, data_root: str | Path | None = None, options: Mapping | None = None
) -> int | None:
    """Return the number of training images where it is known before anything is built, else None."""
    source, resolved, folder = _resolve(name, data_root, options)
    return source.train_size(resolved, folder)


def _resolve(name, data_root, options):
    if name not in SOURCES:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    source, folder = SOURCES[name], _local_folder(name, data_root)
    if folder is not None and ArraySet.is_in(folder):
        source = ArraySet(name, source.image_shape)
    return source, resolve(name, source.options, options), folder


def _local_folder(name: str, data_root: str | Path | None) -> Path | None:
    if data_root is None or name in EMBEDDED:
        return None
    root = Path(data_root)
    if not root.is_dir():
        raise InputError(f"data_root {root} is not a folder")
    folder = root / name
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder with the files of data set {name}")
    return folder
