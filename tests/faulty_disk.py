"""A disk on which a write, flush, rename or unlink fails, the process dies, or the power fails."""

import builtins
import contextlib
import errno
import io
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from dwp.training.checkpoints import Checkpoint

DIED, LOST = 9, 99  # exit statuses
KINDS = ("error", "death", "power failure")


class Disk:
    """Counts the calls of this process on files in a folder, and knows what a power failure would lose.

    Args:
        root: the folder; calls on files elsewhere are left alone.
        is_kept: whether the progress that the job has saved is there.
        fails_at: the call at which something happens; 0 for never.
        kind: what happens; see KINDS.
    """

    def __init__(
        self, root: Path, is_kept: Callable[[], bool] = lambda: True, fails_at: int = 0, kind: str = "error"
    ) -> None:
        self.root, self.is_kept, self.fails_at, self.kind = str(root.resolve()), is_kept, fails_at, kind
        self.calls = 0
        self.unflushed: set[int] = set()  # inodes
        self.undo: list[tuple[str, Callable[[], object]]] = []  # folder, and how to lose the change in it
        self.saved = False  # whether the job has been told that its progress is saved
        self.real = {name: getattr(os, name) for name in ("replace", "unlink", "fsync", "open", "mkdir")}
        self.real_open = io.open

    def patch(self) -> None:
        """Route this process's calls through this object, until it ends."""
        for name in self.real:
            setattr(os, name, getattr(self, name))
        os.rename, os.remove = self.replace, self.unlink
        io.open = builtins.open = self.open_file
        for owner, name in ((Checkpoint, "save"), (sys.modules["dwp.pipeline.job"], "write_manifest")):
            setattr(owner, name, self._then_saved(getattr(owner, name)))

    def _then_saved(self, function: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> None:
            function(*arguments, **options)
            self.saved = True

        return call

    def has(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.root + os.sep)

    def point(self) -> None:
        """Count one call; let happen what is to happen at it."""
        self.calls += 1
        if self.calls != self.fails_at:
            return
        if self.kind == "error":
            raise OSError(errno.EIO, "Input/output error")
        if self.kind == "power failure":
            self.lose()
        os._exit(LOST if self.lost_progress() else DIED)

    def lost_progress(self) -> bool:
        """Return whether progress that was saved is gone."""
        self.fails_at = 0
        return self.saved and not self.is_kept()

    def lose(self) -> None:
        """Lose a random part of what is not flushed."""
        generator = random.Random(self.calls)
        share = generator.choice([0.5, 1])
        for _, undo in reversed(self.undo):
            if generator.random() < share:
                with contextlib.suppress(OSError):
                    undo()
        for folder, _, files in os.walk(self.root):
            for file in files:
                path = os.path.join(folder, file)
                status = os.stat(path)
                if status.st_ino in self.unflushed and generator.random() < share:
                    os.truncate(path, generator.choice([0, status.st_size // 2]))

    def changed(self, path: object, undo: Callable[[], object]) -> None:
        self.undo.append((os.path.dirname(os.path.abspath(path)), undo))

    # What stands in for the functions of os and io

    def replace(self, source: object, target: object, **options: object) -> None:
        if not self.has(target):
            return self.real["replace"](source, target, **options)
        self.point()
        before = _content(target)
        self.real["replace"](source, target, **options)

        def undo() -> None:
            self.real["replace"](target, source)
            if before is not None:
                self._put(target, before)

        return self.changed(target, undo)

    def unlink(self, path: object, **options: object) -> None:
        if not self.has(path):
            return self.real["unlink"](path, **options)
        self.point()
        before = _content(path)
        self.real["unlink"](path, **options)
        return self.changed(path, lambda: self._put(path, before or b""))

    def mkdir(self, path: object, *arguments: object, **options: object) -> None:
        self.real["mkdir"](path, *arguments, **options)
        if self.has(path):
            self.changed(path, lambda: shutil.rmtree(path))

    def open(self, path: object, flags: int, *arguments: object, **options: object) -> int:
        made = flags & os.O_CREAT and self.has(path) and not os.path.exists(path)
        descriptor = self.real["open"](path, flags, *arguments, **options)
        if made:
            self._made(path, os.fstat(descriptor).st_ino)
        return descriptor

    def _made(self, path: object, inode: int) -> None:
        self.unflushed.add(inode)
        self.changed(path, lambda: self.real["unlink"](path))

    def fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if self.has(path) or path == self.root:
            self.point()
            self.unflushed.discard(os.fstat(descriptor).st_ino)
            self.undo = [entry for entry in self.undo if entry[0] != path]

    def open_file(self, file: object, mode: str = "r", *arguments: object, **options: object) -> io.IOBase:
        writes = set(mode) & set("wax+")
        if not writes or not self.has(file) or options.get("opener"):  # a temporary file without a name
            return self.real_open(file, mode, *arguments, **options)
        self.point()
        made = not os.path.exists(file)
        raw = _Raw(file, mode.replace("b", "").replace("t", ""))
        raw.disk = self
        if made:
            self._made(file, os.fstat(raw.fileno()).st_ino)
        self.unflushed.add(os.fstat(raw.fileno()).st_ino)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = ("buffering", "encoding", "errors", "newline")
        options = dict(zip(names, arguments, strict=False)) | options
        options.pop("buffering", None)
        return io.TextIOWrapper(buffered, **{"encoding": "utf-8", **options})

    def _put(self, path: object, content: bytes) -> None:
        with self.real_open(path, "wb") as file:
            file.write(content)


class _Raw(io.FileIO):
    disk: Disk

    def write(self, content: bytes) -> int | None:
        self.disk.point()
        self.disk.unflushed.add(os.fstat(self.fileno()).st_ino)
        return super().write(content)


def _content(path: object) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
