"""Files of kernels: the formats that can be read, and those files in a folder; without PyTorch."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from dwp.errors import InputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".onnx", ".npy", ".h5", ".hdf5")


def expand(paths: str | Path | Iterable[str | Path], where: str = "kernels") -> list[str]:
    """Return files, and in place of each folder the files of known formats in it and its subfolders.

    Files of a folder are sorted, with numbers in numeric order. Hidden files and folders are left out.

    Args:
        paths: a file or folder, or several.
        where: beginning of the error message.

    Raises:
        InputError: a path does not exist, or there is no file of a known format in a folder.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if os.path.isdir(path):
            inside = _inside(Path(path))
            if not inside:
                raise InputError(f"{where}: folder {path} has no file that ends in {', '.join(SUFFIXES)}")
            found += inside
        elif os.path.isfile(path):
            found.append(str(path))
        else:
            raise InputError(f"{where}: there is no file {path}")
    return found


def _inside(folder: Path) -> list[str]:
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SUFFIXES]
    seen = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    ordered = sorted(seen, key=lambda file: natural(file.as_posix()))
    return [str(folder / file) for file in ordered if (folder / file).is_file()]


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key for sorting in which numbers are in numeric order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
