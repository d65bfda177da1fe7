"""Checksums and sizes of local data sets and kernel files, cached between plans."""

import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwp import data
from dwp.files import sha256
from dwp.pipeline.cache import cached

# Packages that provide the fonts and checksums of data sets without a local folder.
PACKAGES = ("matplotlib", "torchvision")


def checksum(file: str) -> str:
    """Return the SHA-256 of a file."""
    path = Path(file).resolve()
    return cached(f"file {path}", lambda: (sha256(path), [path]))


def dataset(name: str, data_root: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the `identity` of a data set, see `dwp.data.identity`, and its `train_size`.

    Raises:
        InputError: see `dwp.data.identity`.
    """
    folder = Path(data_root, name).resolve() if data_root is not None else None

    def find() -> tuple[dict[str, Any], list[Path]]:
        found = {
            "identity": data.identity(name, data_root=data_root, options=options),
            "train_size": data.train_size(name, data_root=data_root, options=options),
        }
        files = [folder, *folder.rglob("*")] if folder and folder.is_dir() else []
        return found, [*files, *Path(data.__file__).parent.glob("*.py")]

    return cached(f"data {name} {folder} {json.dumps(options, sort_keys=True)}", find, _versions())


def _versions() -> list[str]:
    # Python itself provides text.
    return [sys.version, *(importlib.metadata.version(package) for package in PACKAGES)]
