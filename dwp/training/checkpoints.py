"""Checkpoints from which a killed job resumes."""

import io
import logging
import re
import time
from pathlib import Path

import torch

from dwp.files import atomic_write, flush_folder, move, remove_stale

logger = logging.getLogger(__name__)


class Checkpoint:
    """A checkpoint file, saved at intervals; damaged files and those of another job are set aside.

    Args:
        path: the file; it is written atomically.
        identity: identifies the training; files with another identity are not loaded.
        seconds: minimum time between two saves.
    """

    def __init__(self, path: str | Path, identity: str, seconds: float = 60.0) -> None:
        self.path = Path(path)
        self.identity = identity
        self.seconds = seconds
        self._last = time.monotonic()

    def of(self, part: int) -> "Checkpoint":
        """Return the checkpoint of a part of the work, such as a seed."""
        path = self.path.with_name(f"{self.path.stem}-{part}{self.path.suffix}")
        return Checkpoint(path, f"{self.identity}/{part}", self.seconds)

    def due(self) -> bool:
        """Return whether the interval has passed since the last save."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, state: dict) -> None:
        """Write the state atomically.

        Raises:
            StorageError: see `files.atomic_write`.
        """
        # Opened here, since on a full disk PyTorch would report an invalid file name.
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            torch.save({"identity": self.identity, **state}, file)
        self._last = time.monotonic()

    def load(self) -> dict | None:
        """Return the saved state, or None if there is none of this identity."""
        remove_stale(self.path)
        if not self.path.exists():
            return None
        # Outside the try block: a disk error does not mean that the file is damaged.
        content = io.BytesIO(self.path.read_bytes())
        try:
            # Onto the CPU first: the device may have changed since it was saved.
            state = torch.load(content, map_location="cpu", weights_only=True)
            if state["identity"] == self.identity:
                return state
            reason = "it belongs to another run"
        except MemoryError:
            raise
        except Exception as error:
            reason = f"it cannot be read ({type(error).__name__})"
        aside = self.path.with_suffix(".aside")
        move(self.path, aside)
        logger.warning("checkpoint %s set aside as %s: %s", self.path, aside.name, reason)
        return None

    def remove(self) -> None:
        """Delete the checkpoint, those of its parts, and those of their parts."""
        part = re.compile(re.escape(self.path.stem) + r"(-\d+)*" + re.escape(self.path.suffix))
        for path in self.path.parent.glob(f"*{self.path.suffix}"):
            if part.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if self.path.parent.exists():
            flush_folder(self.path.parent)
