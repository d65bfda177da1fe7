"""Data sets of text in memory and as files."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from dwp.errors import InputError

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Text:
    """Documents, split into train and test, perhaps with labels.

    Attributes:
        name: name of the data set.
        train, test: the documents.
        train_labels, test_labels: class of each document, from 0; empty if there are none.

    Raises:
        InputError: a split has no character, or labels do not go with the documents.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_labels: tuple[int, ...] = ()
    test_labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            documents, labels = getattr(self, split), getattr(self, f"{split}_labels")
            if not any(documents):
                raise InputError(f"data set {self.name}: {split} is empty; at least one character is needed")
            if (labels or self.train_labels) and len(labels) != len(documents):
                raise InputError(
                    f"data set {self.name}: {len(labels)} labels for the {len(documents)} documents of "
                    f"{split}"
                )
        classes = {*self.train_labels}
        if classes != set(range(self.classes)) or not {*self.test_labels} <= classes:
            raise InputError(
                f"data set {self.name}: labels are {sorted({*classes, *self.test_labels})}; expected 0 to "
                "the number of classes - 1, each in train"
            )

    @property
    def classes(self) -> int:
        """Return the number of classes; 0 if there are no labels."""
        return max(self.train_labels, default=-1) + 1

    @property
    def digest(self) -> str:
        """Return "sha256:checksum" of all documents and labels."""
        content = [getattr(self, field) for split in SPLITS for field in (split, f"{split}_labels")]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def save(text: Text, path: str | Path) -> None:
    """Write a data set to a safetensors file; equal data sets give equal bytes.

    Raises:
        StorageError: see `files.atomic_write`.
    """
    import torch

    from dwp.files import save_tensors

    tensors = {}
    for split in SPLITS:
        documents = [document.encode() for document in getattr(text, split)]
        tensors[f"{split}_bytes"] = torch.frombuffer(bytearray(b"".join(documents)), dtype=torch.uint8)
        tensors[f"{split}_lengths"] = torch.tensor([len(one) for one in documents])
        tensors[f"{split}_labels"] = torch.tensor(getattr(text, f"{split}_labels"), dtype=torch.long)
    save_tensors(tensors, path, {"name": text.name})


def load(path: str | Path) -> Text:
    """Load a data set saved by `save`.

    Raises:
        InputError: the file is missing, damaged or not a data set of text.
    """
    from safetensors import SafetensorError, safe_open

    fields: dict[str, tuple] = {}
    try:
        with safe_open(path, framework="pt") as file:
            name = (file.metadata() or {})["name"]
            for split in SPLITS:
                content = file.get_tensor(f"{split}_bytes").numpy().tobytes()
                ends = file.get_tensor(f"{split}_lengths").cumsum(0).tolist()
                starts = [0, *ends[:-1]]
                fields[split] = tuple(
                    content[start:end].decode() for start, end in zip(starts, ends, strict=True)
                )
                fields[f"{split}_labels"] = tuple(file.get_tensor(f"{split}_labels").tolist())
    except (OSError, SafetensorError, KeyError, UnicodeDecodeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a readable file of text ({reason}); build it again") from error
    return Text(name, **fields)
