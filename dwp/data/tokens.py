"""Tokens of a text, and the vocabulary that numbers them."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

UNKNOWN, PADDING = "<unk>", "<pad>"
"""Tokens 0 and 1 of every vocabulary: what is not in it, and what fills short documents."""

PATTERNS = {
    "characters": re.compile(".", re.DOTALL),
    "words": re.compile(r"\w+|[^\w\s]|\n"),
    "tokens": re.compile(r"\S+|\n"),
}
"""What a token is. Words: also punctuation and ends of lines. Tokens: what is between spaces, for text that
is already split, such as Penn Treebank; also ends of lines."""


@dataclass(frozen=True)
class Vocabulary:
    """Words that have numbers, most frequent first.

    Attributes:
        level: what a token is, see `PATTERNS`.
        words: all tokens in the order of their numbers.
    """

    level: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, documents: Iterable[str], level: str, size: int | None = None) -> "Vocabulary":
        """Return the vocabulary of documents: two special tokens, and the `size` most frequent or all."""
        counts = Counter(itertools.chain.from_iterable(split(one, level) for one in documents))
        for special in (UNKNOWN, PADDING):
            counts.pop(special, None)
        # Tokens of one frequency by name, so that the order of documents does not count.
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(level, (UNKNOWN, PADDING, *ranked[:size]))

    def __len__(self) -> int:
        return len(self.words)

    def numbers(self, document: str) -> list[int]:
        """Return the number of each token of a document."""
        return [self._numbers.get(word, 0) for word in split(document, self.level)]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def split(document: str, level: str) -> Iterator[str]:
    """Yield the tokens of a document."""
    return (found.group() for found in PATTERNS[level].finditer(document))
