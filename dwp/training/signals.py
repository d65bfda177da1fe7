"""SIGTERM, as schedulers send it: what can be saved is saved, then the work ends."""

import contextlib
import signal
from collections.abc import Iterator

_requested = False
_deferred: list[str] = []


class Stopped(Exception):
    """The work was asked to stop; started again it goes on."""


def on_sigterm() -> None:
    """Let SIGTERM raise `Stopped` in this process: at once, or at the end of a `deferred` block."""
    signal.signal(signal.SIGTERM, _stop)


def requested() -> bool:
    """Return whether SIGTERM has come."""
    return _requested


@contextlib.contextmanager
def deferred(label: str) -> Iterator[None]:
    """Keep `Stopped` back until the block ends, which should then be soon; `label` says what was stopped."""
    _deferred.append(label)
    try:
        yield
    finally:
        _deferred.pop()
    if _requested and not _deferred:
        raise Stopped(f"stopped by SIGTERM: {label}")


def _stop(number: int, frame: object) -> None:
    global _requested
    _requested = True
    if not _deferred:
        raise Stopped("stopped by SIGTERM")
