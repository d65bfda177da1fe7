"""Locks that let concurrent runs share artifacts: shared for finished versions, exclusive for others.

A run holds its locks until it ends. They are kernel locks (`flock`), so a killed run leaves none.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterable

from dwp.pipeline import paths

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)

_descriptors: dict[str, int] = {}  # of this process's locks, by version; open until it ends


def lock(files: Iterable[str], is_stale: Callable[[list[str]], bool] = lambda files: False) -> None:
    """Lock the versions of some files until this process ends, waiting for other runs.

    Args:
        files: all files that the run reads or makes.
        is_stale: whether existing files of one version must be made again.
    """
    versions: dict[str, list[str]] = {}
    for file in files:
        versions.setdefault(paths.label(file), []).append(file)
    paths.LOCKS.mkdir(parents=True, exist_ok=True)
    # All runs lock in the same order, so there is no deadlock.
    for version in sorted(versions):
        if version not in _descriptors:
            lock_file = paths.LOCKS / version.replace("/", "-")
            _descriptors[version] = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)

        def is_finished(files: list[str] = versions[version]) -> bool:
            return all(map(os.path.exists, files)) and not is_stale(files)

        try:
            _lock(_descriptors[version], version, is_finished)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            # The case on some clusters. Snakemake's own locks still stop a conflicting second run.
            logger.warning("No waiting for other runs here: this file system keeps no locks (%s)", error)
            return


def _lock(descriptor: int, version: str, is_finished: Callable[[], bool]) -> None:
    shared = is_finished()
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("Waiting for another run here, which makes or reads %s", version)
        # Shared first, which is enough for all waiting runs if the other run makes the files.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        shared = is_finished()
        if not shared:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # otherwise two waiting writers would deadlock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not shared and is_finished():  # made by a run that has just ended
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def release() -> None:
    """Release all locks of this process before it ends."""
    while _descriptors:
        os.close(_descriptors.popitem()[1])


def any_held() -> bool:
    """Return whether any run holds a lock here."""
    for path in paths.LOCKS.glob("*"):
        with path.open("r+b") as file:  # NFS locks only files that are open for writing
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno not in UNSUPPORTED
    return False
