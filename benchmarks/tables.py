"""Markdown tables, and numbers with their spread."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from scipy.stats import t as student_t


def table(title: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Print a table, each row as soon as it is known."""
    print(f"\n## {title}\n")
    header: list[str] = []
    for row in rows:
        if not header:
            header = list(row)
            print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
        cells = (number(cell) if isinstance(cell, float) else str(cell) for cell in row.values())
        print(f"| {' | '.join(cells)} |", flush=True)


def number(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Return 'median (smallest–largest)'."""
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval by Student's t; NaN for a single value."""
    n = len(values)
    if n < 2:
        return (statistics.fmean(values) if n else float("nan")), float("nan")
    return statistics.fmean(values), student_t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5


def by_seed(values: Sequence[float], *references: Sequence[float]) -> list[str]:
    """Return mean ± standard deviation, and paired differences from references with 95 % intervals."""
    cells = [f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"]
    for reference in references:
        pairs = [mine - other for mine, other in zip(values, reference, strict=True)]
        cells.append("" if values is reference else "{:+.3f} ± {:.3f}".format(*interval(pairs)))
    return cells
