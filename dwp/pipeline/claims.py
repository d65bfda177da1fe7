"""Claims: the versions that each live run in a folder uses and makes, so that runs wait for each other.

A claim is a file in `results/.claims` with the run's process and a heartbeat: the file's time, renewed while
the run lives. Kernel locks would be simpler, but on NFS and Lustre they may hold on one node only. The order
of runs is that of Lamport's bakery algorithm (1974), which needs no atomic operation on two files. A killed
run's claim is void at once on its own machine, elsewhere once its heartbeat is `STALE` seconds old.
"""

import atexit
import contextlib
import json
import logging
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dwp.files import atomic_write
from dwp.pipeline import paths

BEAT, STALE, LOST = 20.0, 300.0, 24 * 3600.0
"""Seconds between heartbeats, and their age at which a run elsewhere, or on this machine, counts as ended."""
POLL = 0.5

logger = logging.getLogger("dwp")


@dataclass
class Claim:
    """The claim of one run.

    Attributes:
        uses: labels of all versions that it reads or makes.
        makes: labels of those that it makes.
        number: place in the queue; 0 while the run chooses it.
        machine: the machine, see `_machine`.
        process: identifier of the process.
        file: the claim's file.
    """

    uses: list[str]
    makes: list[str]
    number: int = 0
    machine: list[str] = field(default_factory=lambda: _machine())
    process: int = field(default_factory=os.getpid)
    file: Path = field(default_factory=lambda: _folder() / f"{secrets.token_hex(8)}.json")

    def write(self) -> None:
        """Write or replace the file."""
        content = {key: value for key, value in asdict(self).items() if key != "file"}
        with atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def is_before(self, other: "Claim") -> bool:
        """Return whether this run goes first; so does one that still chooses its number."""
        return (self.number, self.file.name) < (other.number, other.file.name)

    def conflict(self, other: "Claim") -> set[str]:
        """Return the labels of the versions that one of two runs makes and the other uses."""
        return {*self.makes} & {*other.uses} | {*self.uses} & {*other.makes}

    def is_alive(self, now: float) -> bool:
        """Return whether the run may be alive at a time of the file system's clock."""
        try:
            age = now - self.file.stat().st_mtime
        except FileNotFoundError:
            return False
        if self.machine != _machine():
            return age < STALE
        return age < LOST and _exists(self.process)


_own: list[Claim] = []  # of this process; its heartbeat and its end concern these
_ended = threading.Event()


def claim(files: Iterable[str], is_stale: Callable[[list[str]], bool] = lambda files: False) -> None:
    """Claim the versions of some files until this process ends, after the other runs that it must wait for.

    A run waits for those before it that make a version which it uses, or use one which it makes.

    Args:
        files: all files that the run reads or makes.
        is_stale: whether existing files of one version must be made again.
    """
    versions: dict[str, list[str]] = {}
    for file in files:
        versions.setdefault(paths.label(file), []).append(file)
    # Snakemake evaluates targets more than once; a second place could be behind a run that waits for this one
    if versions.keys() <= {version for one in _own for version in one.uses}:
        return

    def unfinished() -> list[str]:
        return [
            version for version, own in versions.items() if not all(map(os.path.exists, own)) or is_stale(own)
        ]

    own = _enter(Claim(sorted(versions), unfinished()))
    waiting, known = False, None
    while True:
        before = [other for other in others() if other.is_before(own)]
        if known not in (None, before):  # a run that has ended may have made some of these
            own.makes = unfinished()
            own.write()
        known = before
        queued = [other for other in before if other.number]
        conflicts = {version for other in queued for version in own.conflict(other)}
        if not conflicts and queued == before:
            return
        if conflicts and not waiting:
            waiting = True
            logger.warning("Waiting for another run here, which makes or reads %s", min(conflicts))
        time.sleep(POLL)


def try_claim(versions: Iterable[str]) -> bool:
    """Claim versions to delete them, if no other run is alive; return whether there is none."""
    labels = sorted(versions)
    own = _enter(Claim(labels, labels))
    if any(other.is_before(own) for other in others()):
        release()
        return False
    return True


def _enter(own: Claim) -> Claim:
    _folder().mkdir(parents=True, exist_ok=True)
    own.write()
    own.number = 1 + max((other.number for other in others(own)), default=0)
    own.write()
    if not _own:
        _ended.clear()
        threading.Thread(target=_beat, daemon=True).start()
        atexit.register(release)
    _own.append(own)
    return own


def others(own: Claim | None = None) -> list[Claim]:
    """Return the claims of other live runs here; delete those of ended ones."""
    if not _folder().is_dir():
        return []
    mine = {one.file for one in (*_own, *([own] if own else []))}
    found, now = [], _now()
    for file in sorted(set(_folder().glob("[!.]*.json")) - mine):
        if (one := _read(file)) is None:
            continue
        if one.is_alive(now):
            found.append(one)
        else:
            with contextlib.suppress(OSError):  # gone, or another user's
                file.unlink()
    return found


def _folder() -> Path:
    return paths.CLAIMS.absolute()  # Snakemake changes the working directory before this process ends


def _read(file: Path) -> Claim | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Claim(**content, file=file)
    except (OSError, ValueError, TypeError):
        return None  # deleted meanwhile, or no claim


def release() -> None:
    """End the claims of this process."""
    _ended.set()
    while _own:
        _own.pop().file.unlink(missing_ok=True)


def _beat() -> None:
    while not _ended.wait(BEAT):
        for one in list(_own):
            with contextlib.suppress(OSError):
                os.utime(one.file)


def _now() -> float:
    """Return the time of the clock of the file system that has the claims: hosts' clocks differ."""
    with tempfile.TemporaryFile(dir=_folder()) as file:
        return os.fstat(file.fileno()).st_mtime


def _machine() -> list[str]:
    """Return what tells whether a process identifier means the same process: host, boot and namespace."""
    found = [platform.node()]
    with contextlib.suppress(OSError):  # not on macOS
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        found += [boot, os.readlink("/proc/self/ns/pid")]
    return found


def _exists(process: int) -> bool:
    """Return whether a process exists and has not ended; one that has may wait for its parent to notice."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    with contextlib.suppress(OSError):  # not on macOS
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2]
        return not state.startswith("Z")
    return True
