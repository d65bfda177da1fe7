"""Handling of SIGTERM from schedulers: save progress, then stop."""

import contextlib
import signal
from collections.abc import Iterator

_requested = False
_deferred: list[str] = []


class Stopped(Exception):
    """The work was stopped by SIGTERM; it resumes when started again."""


def on_sigterm() -> None:
    """Make SIGTERM raise `Stopped` in this process: at once, or at the end of a `deferred` block."""
    signal.signal(signal.SIGTERM, _stop)


def requested() -> bool:
    """Return whether SIGTERM was received."""
    return _requested


@contextlib.contextmanager
def deferred(label: str) -> Iterator[None]:
    """Defer `Stopped` to the end of the block, which should end soon after; `label` names the work."""
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
