"""Published data sets: local copies, or verified downloads in the same layout.

torchvision provides the mirrors, checksums and formats. pooch downloads the files and gives each its
name only when it is complete and verified.
"""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dwp.data import idx
from dwp.data.options import Option
from dwp.errors import InputError
from dwp.files import flush_folder, sha256
from dwp.torchvision_import import torchvision_datasets

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dwp.data.dataset import Dataset


class Remote(NamedTuple):
    """A file to download: its checksum as "algorithm:hex", and its URLs in the order to try."""

    checksum: str
    urls: tuple[str, ...]


Remotes = dict[str, Remote]

# Retries of a URL, after one second, then two, then three, …
RETRIES = 3
# Time without data after which the connection counts as broken.
TIMEOUT_SECONDS = 60

NOTMNIST_URL = (
    "https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/"
    "17823f4d4a3acd8317c07866702d2eb2ac79c7a0/"
)
NOTMNIST_CHECKSUMS = {
    # Its SHA-256 is not published; the pinned commit states this hash of the content.
    "train-images-idx3-ubyte.gz": "git-blob:6cf3076b36bafa7da1563b28bbe863fd78a008a8",
    "train-labels-idx1-ubyte.gz": "sha256:0db4c4ec5d019838a57f8c9dd764ada7dc3c73e6ccc93032c538c5845f332545",
    "t10k-images-idx3-ubyte.gz": "sha256:70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7",
    "t10k-labels-idx1-ubyte.gz": "sha256:1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b",
}


def notmnist_remotes() -> Remotes:
    """Return the four files of notMNIST in MNIST's format, published with its author's permission."""
    return {name: Remote(checksum, (NOTMNIST_URL + name,)) for name, checksum in NOTMNIST_CHECKSUMS.items()}


def torchvision_remotes(class_name: str) -> Callable[[], Remotes]:
    """Return a function that lists the files of a class of torchvision's MNIST family."""

    def remotes() -> Remotes:
        cls = getattr(torchvision_datasets(), class_name)
        return {
            name: Remote(f"md5:{md5}", tuple(mirror + name for mirror in cls.mirrors))
            for name, md5 in cls.resources
        }

    return remotes


def fetch(folder: Path, name: str, remote: Remote) -> Path:
    """Return `folder / name`, downloaded unless it exists with the right checksum.

    A failed download is restarted up to `RETRIES` times, then the next URL is tried. A file with a wrong
    checksum is never kept under the name.

    Raises:
        InputError: the download failed at every URL.
    """
    import pooch

    path, by_git = folder / name, remote.checksum.startswith("git-blob:")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_SECONDS)
    if by_git and path.is_file():  # pooch cannot check this kind of checksum
        with contextlib.suppress(ValueError):
            _check_git_blob(path, remote.checksum)
    failures = []
    for url in remote.urls:
        try:
            registry = {name: None if by_git else remote.checksum}
            source = pooch.create(folder, "", registry=registry, urls={name: url}, retry_if_failed=RETRIES)
            source.fetch(name, downloader=downloader)
            if by_git:
                _check_git_blob(path, remote.checksum)
            flush_folder(folder)
            return path
        except (OSError, ValueError) as error:  # network and disk; checksum
            failures.append(f"{url}: {' '.join(str(error).split())[:300]}")
    raise InputError(
        f"cannot fetch {name} ({'; '.join(failures)}); "
        f"data_root can point to a folder with a local copy in {folder.name}/"
    )


def _check_git_blob(path: Path, expected: str) -> None:
    """Delete the file and raise ValueError if its git blob ID is not the expected one."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    found = f"git-blob:{digest.hexdigest()}"
    if found != expected:
        path.unlink()
        raise ValueError(f"checksum {found} instead of {expected}")


def _tensors(images: "np.ndarray", labels: "np.ndarray | list[int]") -> "tuple[Tensor, Tensor]":
    """Return uint8 images [n, c, h, w] and labels [n], any integers, as tensors of a Dataset."""
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(np.asarray(labels, np.int64))


class IdxSet:
    """A data set in MNIST's format: four IDX files."""

    image_shape = (1, 28, 28)
    options: dict[str, Option] = {}  # noqa: RUF012

    def __init__(self, name: str, remotes: Callable[[], Remotes]):
        self.name, self.remotes = name, remotes

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Check the local files and return their SHA-256s, or return the checksums of the downloads."""
        if folder is None:
            return {name: remote.checksum for name, remote in self.remotes().items()}
        paths = idx.find(folder)
        idx.check(paths, self.image_shape[1:])
        return {path.name: f"sha256:{sha256(path)}" for path in paths.values()}

    def train_size(self, options: dict, folder: Path | None) -> int | None:
        """Return the number of training images of the local files, None for a download."""
        return idx.check(idx.find(folder), self.image_shape[1:])["train_images"][0] if folder else None

    def build(self, options: dict, folder: Path | None, downloads: Path) -> "Dataset":
        """Return images uint8 [n, 1, h, w].

        Raises:
            InputError: a local file is missing or damaged, or a download failed.
        """
        from dwp.data.dataset import Dataset

        if folder is None:
            fetched = {
                name: fetch(downloads / self.name, name, remote) for name, remote in self.remotes().items()
            }
            paths = {field: fetched[f"{name}.gz"] for field, (name, _) in idx.FILES.items()}
        else:
            paths = idx.find(folder)
        arrays = idx.read(paths, self.image_shape[1:])
        train = _tensors(arrays["train_images"][:, None], arrays["train_labels"])
        test = _tensors(arrays["test_images"][:, None], arrays["test_labels"])
        return Dataset(self.name, *train, *test)


class TorchvisionSet:
    """A data set that torchvision reads from files with known MD5s.

    A local copy and a download are therefore identical.
    """

    image_shape = (3, 32, 32)
    options: dict[str, Option] = {}  # noqa: RUF012

    def __init__(self, name: str, class_name: str):
        self.name, self.class_name = name, class_name

    @property
    def cls(self) -> Any:
        """Return the class of `torchvision.datasets`."""
        return getattr(torchvision_datasets(), self.class_name)

    def train_size(self, options: dict, folder: Path | None) -> int | None:
        """Return None: the number of training images is not known before the files are read."""
        return None

    def files(self) -> dict[str, str]:
        """Return the MD5 of each file, by path relative to torchvision's `root`."""
        raise NotImplementedError

    def download(self, folder: Path) -> None:
        """Download and verify the files in `folder`, unless they exist already."""
        raise NotImplementedError

    def splits(self, folder: Path) -> Iterator[tuple]:
        """Yield (images uint8 [n, c, h, w], labels [n]) of train and test."""
        raise NotImplementedError

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Return torchvision's MD5s, after checking a local copy against them.

        Raises:
            InputError: see `check`.
        """
        if folder is not None:
            self.check(folder)
        return {name: f"md5:{md5}" for name, md5 in self.files().items()}

    def check(self, folder: Path) -> None:
        """Check the files in a folder.

        Raises:
            InputError: a file is missing or has another MD5.
        """
        for name, expected in self.files().items():
            path = folder / name
            if not path.is_file():
                raise InputError(
                    f"{path} is missing; expected the files of {self.name} as torchvision leaves them"
                )
            with path.open("rb") as file:
                found = hashlib.file_digest(file, _md5).hexdigest()
            if found != expected:
                raise InputError(
                    f"{path}: truncated or damaged; its MD5 is {found} ({path.stat().st_size} bytes), "
                    f"expected {expected}"
                )

    def build(self, options: dict, folder: Path | None, downloads: Path) -> "Dataset":
        """Return images uint8 [n, 3, 32, 32].

        Raises:
            InputError: a local file is missing or damaged, or a download failed.
        """
        from dwp.data.dataset import Dataset

        if folder is None:
            folder = downloads / self.name
            self.download(folder)
        # torchvision unpickles CIFAR's files, so only files with the known MD5 are opened.
        self.check(folder)
        train, test = (_tensors(*split) for split in self.splits(folder))
        return Dataset(self.name, *train, *test)


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


class CifarSet(TorchvisionSet):
    """CIFAR-10 or CIFAR-100: files in one archive."""

    def files(self) -> dict[str, str]:
        """See TorchvisionSet."""
        cls = self.cls
        listed = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
        return {f"{cls.base_folder}/{name}": md5 for name, md5 in listed}

    def download(self, folder: Path) -> None:
        """See TorchvisionSet."""
        try:
            self.check(folder)
        except InputError:
            fetch(folder, self.cls.filename, Remote(f"md5:{self.cls.tgz_md5}", (self.cls.url,)))
            self.cls(folder, download=True)  # finds the verified archive and unpacks it

    def splits(self, folder: Path) -> Iterator[tuple]:
        """See TorchvisionSet."""
        for train in (True, False):
            data = self.cls(folder, train=train)
            yield data.data.transpose(0, 3, 1, 2), data.targets


class SvhnSet(TorchvisionSet):
    """SVHN: one Matlab file for each split."""

    def __init__(self, name: str):
        super().__init__(name, "SVHN")

    def files(self) -> dict[str, str]:
        """See TorchvisionSet."""
        return {name: md5 for _, name, md5 in self._listed()}

    def download(self, folder: Path) -> None:
        """See TorchvisionSet."""
        for url, name, md5 in self._listed():
            fetch(folder, name, Remote(f"md5:{md5}", (url,)))

    def splits(self, folder: Path) -> Iterator[tuple]:
        """See TorchvisionSet."""
        for split in ("train", "test"):
            data = self.cls(folder, split=split)
            yield data.data, data.labels

    def _listed(self) -> list[tuple[str, str, str]]:
        return [self.cls.split_list[split] for split in ("train", "test")]
