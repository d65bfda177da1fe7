"""Exceptions with one-line messages for users."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """An input (configuration, file, array, model) cannot be used.

    The message is one line: what is wrong, where (key or path), the value
    found, and what is allowed or what to do.
    """

    def __init__(self, message: str) -> None:
        # Quoted input may contain line breaks.
        super().__init__(" ".join(message.split()))


class DivergedError(InputError, FloatingPointError):
    """Predictions contain NaN, because the training of their network has diverged."""


class StorageError(OSError):
    """A file cannot be written: the disk is full, a quota is reached, or the folder is read-only.

    An existing file of that name is kept.
    """


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Turn a missing package into an InputError that says how to install it.

    Args:
        name: the extra of this package that installs it, such as 'workflow'.
        what: the feature that needs it, such as 'flow'.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise InputError(f"{what}: it needs {package}; pip install 'dwp[{name}]'") from error


def unknown(where: str, name: object, known: Iterable[object]) -> InputError:
    """Return the error for an unknown name, with the known names and the nearest of them."""
    names = [str(one) for one in known]
    nearest = difflib.get_close_matches(str(name), names, 1)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return InputError(f"{where}: {name!r} is not known; use one of {', '.join(names)}{hint}")
