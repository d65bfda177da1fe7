"""Atomic writes and checksums of files."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwp.errors import InputError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EROFS: "choose another folder, or mount it for writing",
    errno.EACCES: "choose another folder, or change its permissions",
}


def cache_folder() -> Path:
    """Return $DWP_CACHE, by default `dwp` in $XDG_CACHE_HOME or `~/.cache`."""
    if own := os.environ.get("DWP_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dwp"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    Readers see either the old file or the complete new one, also after a power failure: the temporary
    file is flushed to disk before it is renamed, and its folder afterwards. It is removed on an error.

    Raises:
        StorageError: the disk is full or not writable.
    """
    path = Path(path)
    new_folders = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp creates private files; give the result the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        move(temporary, path)
        for folder in new_folders:
            flush_folder(folder.parent)
    except Exception as error:
        # Libraries report a full disk in different ways; writing to it gives the system's error.
        refusal = error if isinstance(error, OSError) and error.errno in ADVICE else _refusal(temporary)
        if refusal:
            raise _unwritable(path, refusal) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Move a file to another name in its folder for good: a power failure does not undo it."""
    source.replace(target)
    flush_folder(target.parent)


def copy(source: str | Path, target: str | Path) -> None:
    """Copy the content of a file atomically.

    Raises:
        StorageError: see `atomic_write`.
    """
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def flush_folder(folder: str | Path) -> None:
    """Flush the names in a folder to disk: files that were made in it, moved into it or deleted from it."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that flush no folders
            raise
    finally:
        os.close(descriptor)


def reserve(file: Path, size: int) -> None:
    """Raise OSError unless the disk has room for `size` bytes; for libraries that crash on a full disk."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(opened.fileno(), 0, size)
            opened.truncate(0)


def save_tensors(
    tensors: Mapping[str, "Tensor"], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file atomically; equal tensors give equal bytes.

    Raises:
        StorageError: see `atomic_write`.
    """
    # Imported here, so that checksums do not need PyTorch.
    from safetensors.torch import save

    # Not written by safetensors, which deletes an incomplete file and thereby hides the cause.
    content = save(dict(tensors), dict(metadata) if metadata else None)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: str | Path, what: str) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors of a safetensors file, on the CPU, and the JSON object in its metadata `dwp`, or {}.

    Args:
        path: the file.
        what: name of its content in messages.

    Raises:
        InputError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("dwp", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{what}: there is no file {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{what}: {path} cannot be read as safetensors ({error})") from None
    return tensors, header if isinstance(header, dict) else {}


def remove_stale(path: str | Path) -> None:
    """Delete temporary files that a killed `atomic_write` left beside a file; it must have one writer."""
    path = Path(path)
    for stale in path.parent.glob(f".{glob.escape(path.stem)}-{'?' * 8}{glob.escape(path.suffix)}"):
        stale.unlink(missing_ok=True)


def _refusal(file: Path) -> OSError | None:
    try:
        with file.open("ab") as opened:
            opened.write(bytes(1 << 16))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        return error
    return None


def _unwritable(path: Path, error: OSError) -> StorageError:
    advice = ADVICE.get(error.errno or 0, "mend that")
    return StorageError(
        f"{path} cannot be written: {error.strerror}; {advice} and run again, nothing else is lost"
    )


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
