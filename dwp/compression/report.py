"""Table of the layers of a network before and after it was made smaller."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A layer before and after it was made smaller.

    Attributes:
        name: name in the network.
        before: shape of its weight.
        after: shape of its weight in the smaller network.
        deviation: root mean square of the posterior standard deviations of the weights that are left; NaN
            if it is not known, zero for a point.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    deviation: float


@dataclass(frozen=True)
class ShrinkReport:
    """What `shrink` did; prints as a table.

    Attributes:
        rows: one for each convolution and linear layer.
        thresholds: threshold of the log dropout rates of each layer with scales that was pruned.
    """

    rows: tuple[Row, ...]
    thresholds: dict[str, float]

    @property
    def compression(self) -> float:
        """Return the number of weights before, relative to that after."""
        before, after = (
            sum(math.prod(getattr(row, when)) for row in self.rows) for when in ("before", "after")
        )
        return before / after

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [("layer", "before", "after", "deviation", "threshold")]
        for row in self.rows:
            threshold = f"{self.thresholds[row.name]:.3g}" if row.name in self.thresholds else "–"
            sizes = ("×".join(map(str, size)) for size in (row.before, row.after))
            lines.append((row.name or "–", *sizes, f"{row.deviation:.2g}", threshold))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([*text, f"{self.compression:.3g} times fewer weights"])
