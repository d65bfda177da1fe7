"""The data sets by name: one table of known ones, and those in the folders of `data_root`.

A source is an object with `image_shape`, `options` (name -> Option), `checksums(options, folder)`,
`train_size(options, folder)` and `build(options, folder, downloads)`; `folder` is the user's
local copy or None.
A new known set is one new line in SOURCES. One's own is a folder of `data_root` with four arrays,
see `dwp.data.arrays`; its name is no known one, so that nothing published is taken for its own.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dwp.data.arrays import FIELDS, ArraySet
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
# Of one's own set: part of file names, and no path.
_OWN_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]*")


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
    SVHN the files as torchvision leaves them in its `root`.  Without a folder,
    the verified downloads go to `<downloads>/<name>`, in the same layout.
    Under any other name, the folder holds four arrays (see `dwp.data.arrays`).

    Raises InputError for an unknown name or option, a local file that is
    missing, damaged or of the wrong format, a folder that a known set would
    not read (arrays; any for a rendered set), and a failed download.
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


def image_shape(name: str, *, data_root: str | Path | None = None) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images, without reading them; raises as `build` does."""
    return _find(name, data_root)[0].image_shape


def train_size(
    name: str, *, data_root: str | Path | None = None, options: Mapping | None = None
) -> int | None:
    """Return the number of training images where it is known before anything is built, else None."""
    source, resolved, folder = _resolve(name, data_root, options)
    return source.train_size(resolved, folder)


def _resolve(name, data_root, options):
    source, folder = _find(name, data_root)
    return source, resolve(name, source.options, options), folder


def _find(name, data_root):
    """Return the source of a set and its local folder or None."""
    known = name in SOURCES
    folder = _local_folder(name, data_root) if known or _OWN_NAME.fullmatch(name) else None
    has_arrays = folder is not None and ArraySet.is_in(folder)
    if not known and not has_arrays:
        raise _unknown(name, data_root)
    if not known:
        return ArraySet.of(folder), folder
    advice = f"give a set of your own a name of its own, such as my-{name}"
    if has_arrays:
        raise InputError(f"{folder}: arrays do not make the known set {name}; {advice}")
    if folder is not None and name in EMBEDDED:
        raise InputError(f"{folder}: {name} is built in and reads no folder; {advice}")
    return SOURCES[name], folder


def _unknown(name: str, data_root: str | Path | None) -> InputError:
    known = [*NAMES]
    if data_root is not None:
        folders = {path.parent.name for path in Path(data_root).glob("*/*.npy") if path.stem in FIELDS}
        known += sorted(filter(_OWN_NAME.fullmatch, folders - {*NAMES}))
    lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), lower, 1)
    meant = f" (did you mean {lower[close[0]]!r}?)" if close else ""
    return InputError(
        f"unknown data set {name!r}; known: {', '.join(known)}{meant}; one of your own is a folder "
        f"{data_root or '<data_root>'}/<name> with {', '.join(f'{field}.npy' for field in FIELDS)}, "
        "its name of letters, digits, _ and -"
    )


def _local_folder(name: str, data_root: str | Path | None) -> Path | None:
    if data_root is None:
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
