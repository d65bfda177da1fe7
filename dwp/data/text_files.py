"""Sources of text: the standard library of Python, and files of published data sets in local folders."""

import ast
import csv
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path

from dwp.data.options import Option
from dwp.data.text import SPLITS, Text
from dwp.errors import InputError

STRIDE = 10
"""Every tenth document of the standard library is a test document."""


class TextSource:
    """A data set of text; its identity is the checksum of its content. Subclasses define `documents`.

    Args:
        name: name of the data set.
    """

    options: dict[str, Option] = {}  # noqa: RUF012
    files = ""
    """The files that a local folder needs, for errors; '' for a source that reads none."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Refuse to have images.

        Raises:
            InputError: always.
        """
        raise InputError(f"data set {self.name} is text, not images; it can be data.text")

    def documents(self, folder: Path | None) -> Text:
        """Return the data set.

        Raises:
            InputError: a file is missing, not UTF-8 or malformed.
        """
        raise NotImplementedError

    def read(self, folder: Path | None) -> Text:
        """Return the data set; see `documents`. A missing folder is refused, since nothing is downloaded."""
        if folder is None and self.files:
            raise InputError(
                f"data set {self.name} is not downloaded; put {self.files} into <data_root>/{self.name}"
            )
        return self.documents(folder)

    def checksums(self, options: dict, folder: Path | None) -> dict[str, str]:
        """Return the checksum of the content."""
        return {"content": self.read(folder).digest}

    def train_size(self, options: dict, folder: Path | None) -> int | None:
        """Return None: the number of sequences depends on how an experiment splits the text."""
        return None

    def build(self, options: dict, folder: Path | None, downloads: Path) -> Text:
        """Return the data set."""
        return self.read(folder)


class PythonSources(TextSource):
    """Source files of the modules of Python's standard library, by name; packages are left out.

    They differ between versions of Python.
    """

    def documents(self, folder: Path | None) -> Text:
        """Return one document for each module."""
        return _every_tenth(self.name, [read_text(path) for path in _modules()])


class PythonDocs(TextSource):
    """Documentation in Python's standard library: docstrings of each module, and the topics of `help()`.

    It differs between versions of Python.
    """

    def documents(self, folder: Path | None) -> Text:
        """Return one document for each module with docstrings, and one for each topic."""
        return _every_tenth(self.name, _documentation())


class TextFiles(TextSource):
    """Text in one file for each split.

    Args:
        name: name of the data set.
        train, test: names of the files.
    """

    def __init__(self, name: str, train: str, test: str) -> None:
        super().__init__(name)
        self.names = (train, test)
        self.files = f"{train} and {test}"

    def documents(self, folder: Path | None) -> Text:
        """Return one document for each split."""
        assert folder is not None
        train, test = (read_text(folder / name) for name in self.names)
        return Text(self.name, (train,), (test,))


class AgNews(TextSource):
    """AG News: rows class, title, description; classes from 1 to 4."""

    files = "train.csv and test.csv"

    def documents(self, folder: Path | None) -> Text:
        """Return one document for each row: title and description."""
        assert folder is not None
        (train, first), (test, second) = (self._rows(folder / f"{split}.csv") for split in SPLITS)
        return Text(self.name, train, test, first, second)

    @staticmethod
    def _rows(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
        documents, labels = [], []
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path))), start=1):
            if len(row) != 3 or row[0] not in ("1", "2", "3", "4"):
                found = f"{len(row)} fields" + (f", class {row[0]!r}" if row else "")
                raise InputError(
                    f"{path}: row {number} has {found}; expected class (1 to 4), title, description"
                )
            documents.append(f"{row[1]}\n{row[2]}")
            labels.append(int(row[0]) - 1)
        return tuple(documents), tuple(labels)


class Imdb(TextSource):
    """IMDB film reviews, a file each: class 0 in folders `neg`, class 1 in `pos`."""

    files = "the folder aclImdb, with train/pos, train/neg, test/pos and test/neg,"

    def documents(self, folder: Path | None) -> Text:
        """Return one document for each review."""
        assert folder is not None
        fields: dict[str, tuple] = {}
        for split in SPLITS:
            documents: list[str] = []
            labels: list[int] = []
            for label, kind in enumerate(("neg", "pos")):
                paths = sorted((folder / "aclImdb" / split / kind).glob("*.txt"))
                if not paths:
                    raise InputError(f"{folder / 'aclImdb' / split / kind}: no reviews; expected files *.txt")
                documents += map(read_text, paths)
                labels += [label] * len(paths)
            fields |= {split: tuple(documents), f"{split}_labels": tuple(labels)}
        return Text(self.name, **fields)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with line ends `\\n`.

    Raises:
        InputError: it is missing, empty, cannot be read or is not UTF-8.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; expected a file of text") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not content:
        raise InputError(f"{path}: empty; at least one character is needed")
    return content


def _modules() -> list[Path]:
    """Return the source files of the modules of the standard library, by name."""
    folder = Path(os.__file__).parent
    # Other files may be beside them, such as those of a distributor.
    paths = [path for path in folder.glob("*.py") if not path.name.startswith("_sysconfigdata")]
    found = sorted(path for path in paths if path.stat().st_size)
    if len(found) < STRIDE:
        raise InputError(f"{folder}: {len(found)} modules; Python's sources are needed for this data set")
    return found


@functools.cache
def _documentation() -> list[str]:
    found = ["\n\n".join(_docstrings(ast.parse(read_text(path)))) for path in _modules()]
    return [*filter(None, found), *_topics()]


def _docstrings(module: ast.Module) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(module):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


def _topics() -> Iterator[str]:
    """Yield the topics of `help()`, by name; none if this Python has none."""
    path = Path(os.__file__).parent / "pydoc_data" / "topics.py"
    if not path.is_file():
        return
    for statement in ast.parse(read_text(path)).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            topics = ast.literal_eval(statement.value)
            yield from (topics[name] for name in sorted(topics))


def _every_tenth(name: str, documents: list[str]) -> Text:
    test = range(STRIDE - 1, len(documents), STRIDE)
    train = [document for number, document in enumerate(documents) if number not in test]
    return Text(name, tuple(train), tuple(documents[number] for number in test))
