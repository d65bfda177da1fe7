"""Cache of checksums and code digests, because every job of a cluster plans the whole run anew.

The cache is one JSON file under `results/`. An entry is valid while the files that it depends on keep their
size and times of change.
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


def cached(key: str, find: Callable[[], tuple[T, Iterable[Path]]], version: object = None) -> T:
    """Return the cached result of a key, or compute and cache it.

    Args:
        key: identifies the result and the files that it depends on.
        find: computes the result, a JSON value, and returns it with the files and folders that it depends on.
        version: anything else that the result depends on, such as versions of libraries, as a JSON value.
    """
    entry = _entries().get(key)
    if isinstance(entry, dict) and entry.get("version") == version and _is_current(entry.get("files")):
        return entry["found"]
    found, files = find()
    entry = {"version": version, "files": {str(file): _state(file) for file in files}, "found": found}
    if paths.RESULTS.is_dir():
        try:
            with atomic_write(paths.CACHE) as temporary:
                # Keep what other runs have written since.
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
    # The time of the last status change as well: tools that preserve modification times cannot set it.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entries() -> Entries:
    file = paths.CACHE.absolute()
    state = _state(file)
    return _read(file, tuple(state)) if state else {}


@functools.lru_cache(maxsize=1)
def _read(file: Path, state: tuple[int, ...]) -> Entries:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}  # a damaged cache counts as empty
    return content if isinstance(content, dict) else {}
