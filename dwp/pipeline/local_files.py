"""What local files hold, remembered: a plan is made anew for every job, and they may be large.

What was found is kept in a small file under `results/` and counts as long as every file has the size and
the time of its last change that it had.
"""

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dwp import data
from dwp.errors import StorageError
from dwp.files import atomic_write, sha256
from dwp.pipeline import paths

T = TypeVar("T")

# What a data set without a local folder is made from comes with these.
PACKAGES = ("matplotlib", "torchvision")


def checksum(file: str) -> str:
    """Return the SHA-256 of a file."""
    return _remembered(f"file {Path(file).resolve()}", _stat(Path(file)), lambda: sha256(file))


def dataset(name: str, data_root: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the `identity` of a data set, see `dwp.data.identity`, and its `train_size`.

    Raises:
        InputError: see `dwp.data.identity`.
    """
    folder = Path(data_root, name).resolve() if data_root is not None else None
    state: dict[str, object]
    if folder and folder.is_dir():
        state = {str(path.relative_to(folder)): _stat(path) for path in sorted(folder.rglob("*"))}
    else:
        folder, state = None, {package: _version(package) for package in PACKAGES}

    def find() -> dict[str, Any]:
        return {
            "identity": data.identity(name, data_root=data_root, options=options),
            "train_size": data.train_size(name, data_root=data_root, options=options),
        }

    return _remembered(f"data {name} {folder} {json.dumps(options, sort_keys=True)}", state, find)


def _stat(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _remembered(key: str, state: object, find: Callable[[], T]) -> T:
    """Return what was found under a key when its state was this; else find it now, and remember it."""
    entry = _read().get(key)
    if isinstance(entry, dict) and entry.keys() == {"state", "found"} and entry["state"] == state:
        return entry["found"]
    found = find()
    if paths.RESULTS.is_dir():
        try:
            with atomic_write(paths.LOCAL_FILES) as temporary:
                # Read again: another run may have written since.
                temporary.write_text(json.dumps(_read() | {key: {"state": state, "found": found}}))
        except StorageError:
            pass  # it is found again next time
    return found


def _read() -> dict[str, Any]:
    try:
        content = json.loads(paths.LOCAL_FILES.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
