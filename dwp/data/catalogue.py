"""Data sets by name: known data sets, and the user's own in folders of `data_root`.

To add a known data set, add a line to SOURCES. A user's data set is a folder of `data_root` with four
arrays, see `dwp.data.arrays`, or with text in `train.txt` and `test.txt`. It cannot have a known name, so
that it is not mistaken for a published one.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dwp.data.arrays import FIELDS, ArraySet
from dwp.data.digits import Digits
from dwp.data.downloaded import CifarSet, IdxSet, SvhnSet, notmnist_remotes, torchvision_remotes
from dwp.data.glyphs import Glyphs
from dwp.data.options import Option, resolve
from dwp.data.text import Text
from dwp.data.text_files import AgNews, Imdb, PythonDocs, PythonSources, TextFiles, TextSource
from dwp.errors import InputError, extra

if TYPE_CHECKING:
    from dwp.data.dataset import Dataset


class Source(Protocol):
    """A data set that can be built; `folder` is the user's local copy or None, `options` are resolved."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape (c, h, w) of an image."""

    @property
    def options(self) -> dict[str, Option]:
        """Return the options by name."""

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Return "algorithm:checksum" of the files that the data set depends on, by relative name."""

    def train_size(self, options: dict, folder: Path | None) -> int | None:
        """Return the number of training images, or None if it is unknown before the data set is built."""

    def build(self, options: dict, folder: Path | None, downloads: Path) -> "Dataset | Text":
        """Return the data set."""


SOURCES: dict[str, Source] = {
    "glyphs": Glyphs("glyphs", "ABCDEFGHIJ"),
    "glyphs-k-t": Glyphs("glyphs-k-t", "KLMNOPQRST"),
    "digits": Digits(),
    "mnist": IdxSet("mnist", torchvision_remotes("MNIST")),
    "notmnist": IdxSet("notmnist", notmnist_remotes),
    "fashion-mnist": IdxSet("fashion-mnist", torchvision_remotes("FashionMNIST")),
    "kmnist": IdxSet("kmnist", torchvision_remotes("KMNIST")),
    "cifar10": CifarSet("cifar10", "CIFAR10"),
    "cifar100": CifarSet("cifar100", "CIFAR100"),
    "svhn": SvhnSet("svhn"),
    "python-sources": PythonSources("python-sources"),
    "python-docs": PythonDocs("python-docs"),
    "penn-treebank": TextFiles("penn-treebank", "ptb.train.txt", "ptb.test.txt"),
    "ag-news": AgNews("ag-news"),
    "imdb": Imdb("imdb"),
}
NAMES = tuple(SOURCES)
EMBEDDED = ("glyphs", "glyphs-k-t", "digits", "python-sources", "python-docs")
OWN_TEXT = ("train.txt", "test.txt")
"""Files of a text of the user's own."""
# Allowed names of the user's data sets, which become part of file names.
_OWN_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]*")


def build(
    name: str,
    *,
    data_root: str | Path | None = None,
    downloads: str | Path,
    options: Mapping | None = None,
) -> "Dataset | Text":
    """Build a data set: rendered, read from a local folder, or downloaded.

    Args:
        name: a known name, or the name of a folder of `data_root` with four arrays (see `dwp.data.arrays`).
        data_root: folder with local copies; `<data_root>/<name>` takes precedence over the download.
            For the MNIST family it contains the four IDX files, gzipped or not, with any number of images;
            for CIFAR and SVHN the files in the layout of torchvision's `root`; for text see
            `dwp.data.text_files`.
        downloads: folder for verified downloads, `<downloads>/<name>`, in the same layout.
        options: options of the data set by name; the others have their defaults.

    Raises:
        InputError: the name or an option is unknown, a local file is missing, damaged or of the wrong
            format, a known data set has a local folder that it does not read (one with arrays, or any
            folder if it is embedded), a package of the extra `workflow` is not installed, or a download
            failed.
    """
    source, resolved, folder = _resolve(name, data_root, options)
    with extra("workflow", f"data set {name}"):
        return source.build(resolved, folder, Path(downloads))


def identity(name: str, *, data_root: str | Path | None = None, options: Mapping | None = None) -> dict:
    """Return everything that determines a data set, as plain JSON, without building it.

    Returns:
        `name`, `options` (all, resolved) and `files` (relative name -> "algorithm:checksum" of the
        local files or of the downloads).

    Raises:
        InputError: see `build`; local files are checked.
    """
    source, resolved, folder = _resolve(name, data_root, options)
    with extra("workflow", f"data set {name}"):
        return {"name": name, "options": resolved, "files": source.checksums(resolved, folder)}


def is_text(name: str, *, data_root: str | Path | None = None) -> bool:
    """Return whether a data set is text.

    Raises:
        InputError: see `build`.
    """
    return isinstance(_find(name, data_root)[0], TextSource)


def image_shape(name: str, *, data_root: str | Path | None = None) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images without reading them.

    Raises:
        InputError: see `build`.
    """
    return _find(name, data_root)[0].image_shape


def train_size(
    name: str, *, data_root: str | Path | None = None, options: Mapping | None = None
) -> int | None:
    """Return the number of training images, or None if it is unknown before the data set is built.

    Raises:
        InputError: see `build`.
    """
    source, resolved, folder = _resolve(name, data_root, options)
    return source.train_size(resolved, folder)


def _resolve(
    name: str, data_root: str | Path | None, options: Mapping | None
) -> tuple[Source, dict[str, int | float], Path | None]:
    source, folder = _find(name, data_root)
    return source, resolve(name, source.options, options), folder


def _find(name: str, data_root: str | Path | None) -> tuple[Source, Path | None]:
    """Return the source of a data set, and its local folder or None."""
    known = name in SOURCES
    folder = _local_folder(name, data_root) if known or _OWN_NAME.fullmatch(name) else None
    has_arrays = folder is not None and ArraySet.is_in(folder)
    if not known:
        if folder is not None and (folder / OWN_TEXT[0]).is_file() and not has_arrays:
            return TextFiles(name, *OWN_TEXT), folder
        if folder is None or not has_arrays:
            raise _unknown(name, data_root)
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
        f"or for text with {' and '.join(OWN_TEXT)}, its name of letters, digits, _ and -"
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
