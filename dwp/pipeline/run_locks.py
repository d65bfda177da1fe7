"""Which versions a run makes and which it reads, said so that runs side by side take turns where they must.

Any number of runs may read a finished version; one that is to be made belongs to one run
until that run ends. The kernel keeps these locks (`flock`), so a run that is killed leaves none.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

FOLDER = Path("results/.claims")
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)

_held: dict[str, int] = {}  # claimed by this process, which never gives back: file descriptors


def claim(
    files: Iterable[str],
    is_stale: Callable[[list[str]], bool] = lambda files: False,
    folder: Path = FOLDER,
) -> None:
    """Claim the versions that files belong to until this process ends, waiting for other runs.

    Args:
        files: all that the run reads or makes, as `results/<stage>/<version>/<file>`.
        is_stale: whether files of one version, which are all there, are to be made again.
        folder: where the locks are.
    """
    versions: dict[str, list[str]] = {}
    for file in files:
        versions.setdefault("-".join(Path(file).parts[1:3]), []).append(file)
    folder.mkdir(parents=True, exist_ok=True)
    # All runs go in the same order, so no two wait for each other.
    for version in sorted(versions):
        if version not in _held:
            _held[version] = os.open(folder / version, os.O_RDWR | os.O_CREAT, 0o666)

        def is_finished(files: list[str] = versions[version]) -> bool:
            return all(map(os.path.exists, files)) and not is_stale(files)

        try:
            _lock(_held[version], version, is_finished)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            # As on some clusters. Snakemake's own locks still end a second run that would do harm.
            logger.warning("No waiting for other runs here: this file system keeps no locks (%s)", error)
            return


def _lock(descriptor: int, version: str, is_finished: Callable[[], bool]) -> None:
    reads = is_finished()
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if reads else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("Waiting for another run here, which makes or reads %s", version.replace("-", "/"))
        # First to read, which is enough for all who wait if the other run makes the files.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        reads = is_finished()
        if not reads:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # or two that wait to write would wait for each other
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not reads and is_finished():  # by a run that ended just now
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def claimed(folder: Path = FOLDER) -> bool:
    """Return whether a run is at work."""
    for path in folder.glob("*"):
        with path.open("r+b") as file:  # NFS locks only what could be written
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno not in UNSUPPORTED
    return False
