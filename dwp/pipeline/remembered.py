"""Cache of facts about files that take long to compute, because every job plans anew.

It is a small file under `results/`. An entry is valid as long as the size and modification time of
the files it was computed from are unchanged.
"""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from dwp.errors import StorageError
from dwp.files import atomic_write
from dwp.pipeline import paths

T = TypeVar("T")
Entries = dict[str, dict]


def remembered(key: str, find: Callable[[], tuple[T, Iterable[Path]]], version: object = None) -> T:
    """Return the cached value of a key, or compute and cache it.

    Args:
        key: name of the value, with the files that it is computed from.
        find: returns the value, as JSON, and the files and folders that it depends on.
        version: other dependencies, such as library versions, as JSON.
    """
    entry = _entries().get(key)
    if isinstance(entry, dict) and entry.get("version") == version and _is_current(entry.get("files")):
        return entry["found"]
    found, files = find()
    entry = {"version": version, "files": {str(file): _state(file) for file in files}, "found": found}
    if paths.RESULTS.is_dir():
        try:
            with atomic_write(paths.REMEMBERED) as temporary:
                # Includes entries that other runs have written since.
                temporary.write_text(json.dumps(_entries() | {key: entry}))
        except StorageError:
            pass  # computed again next time
    return found


def _is_current(files: object) -> bool:
    return isinstance(files, dict) and all(_state(Path(file)) == state for file, state in files.items())


def _state(file: Path) -> list[int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _entries() -> Entries:
    file = paths.REMEMBERED.absolute()
    state = _state(file)
    return _read(file, tuple(state)) if state else {}


@functools.lru_cache(maxsize=1)
def _read(file: Path, state: tuple[int, ...]) -> Entries:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}  # damaged: treated as empty
    return content if isinstance(content, dict) else {}
