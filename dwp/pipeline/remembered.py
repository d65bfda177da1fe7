"""What takes long to find out about files, remembered: a plan is made anew for every job.

It is kept in a small file under `results/`, and holds as long as the files that it was found from have the
size and the time of last change that they had.
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
    """Return what was found under a key, or find it now.

    Args:
        key: what is asked for; names the files that it is found from.
        find: returns what is found, as JSON has it, and the files and folders that it depends on.
        version: what it depends on besides, such as versions of libraries, as JSON has it.
    """
    entry = _entries().get(key)
    if isinstance(entry, dict) and entry.get("version") == version and _is_current(entry.get("files")):
        return entry["found"]
    found, files = find()
    entry = {"version": version, "files": {str(file): _state(file) for file in files}, "found": found}
    if paths.RESULTS.is_dir():
        try:
            with atomic_write(paths.REMEMBERED) as temporary:
                # With what other runs have written since.
                temporary.write_text(json.dumps(_entries() | {key: entry}))
        except StorageError:
            pass  # it is found anew next time
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
        return {}  # damaged: as if there were nothing
    return content if isinstance(content, dict) else {}
