"""Speed and memory relative to the published recipe, and share of the machine's peak.

    python -m benchmarks.speed data_root=~/data threads=2

The recipe (benchmarks/recipe.py) uses a DataLoader with a transform for each image, float32, every kernel
through the VAE in each step, and noise for each image at test. Each side has its own process, with the same
number of threads, and waits while the other works. A cell is the median over turns, with the smallest and the
largest in brackets. The share of the peak counts the operations of the recipe's products and convolutions,
even if the library needs fewer, against the rate of a large matrix product in the precision of each side.
The whole few-shot run of 10,000 steps and 100 evaluations is computed from its parts.
"""

import statistics
from collections.abc import Iterator
from functools import partial

from benchmarks import inputs, tables, timing
from benchmarks.options import Options, read
from benchmarks.workloads import WORKLOADS

STEPS, EVALUATIONS, GOAL = 10_000, 100, 15
HEADER = ("workload", "unit", "recipe", "dwp", "speed-up", "goal")
MORE = ("peak memory, MiB: recipe, dwp", "MFLOP per unit", "share of the product's rate: recipe, dwp")


def main(words: list[str] | None = None, **defaults: object) -> None:
    """Measure and print the table."""
    options = read(__doc__, words, **defaults)
    inputs.source(options)  # reports a wrong data_root before anything is measured
    tables.table(timing.machine(options), rows(options))


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield the rows of the table."""
    rates = [timing.product_rate(options, precision) for precision in ("float32", options.precision)]
    product = f"product of {options.product}×{options.product}, in the precision of each"
    yield row(product, "GFLOP/s", *(rate / 1e9 for rate in rates), rates[1] / rates[0])
    medians, peaks = {}, {}
    for name in options.only or WORKLOADS:
        workload = WORKLOADS[name]
        found, peaks[name], flops = measure(name, options)
        medians[name] = [statistics.median(each) for each in found]
        yield row(
            workload.title,
            workload.unit,
            *(tables.spread([1 / value for value in each]) for each in found),
            tables.spread([theirs / mine for theirs, mine in zip(*found, strict=True)]),
            f"≥ {workload.goal}",
            pair(peaks[name], ".0f"),
            flops / 1e6,
            pair([flops / median / rate for median, rate in zip(medians[name], rates, strict=True)], ".2f"),
        )
    for name in ("step", "subset"):
        if {name, "evaluation"} <= medians.keys():
            parts = zip(medians[name], medians["evaluation"], strict=True)
            theirs, ours = (STEPS * step + EVALUATIONS * evaluation for step, evaluation in parts)
            memory = pair([max(both) for both in zip(peaks[name], peaks["evaluation"], strict=True)], ".0f")
            title = f"whole run, from the {WORKLOADS[name].title}"
            yield row(title, "s", theirs, ours, theirs / ours, f"≥ {GOAL}", memory)


def row(*cells: object) -> dict[str, object]:
    """Return a row of the table."""
    return dict(zip((*HEADER, *MORE), [*cells, "", "", "", ""], strict=False))


def pair(values: list[float], form: str) -> str:
    """Return two numbers as text."""
    return ", ".join(format(value, form) for value in values)


def measure(name: str, options: Options) -> tuple[list[list[float]], list[float], float]:
    """Return seconds per unit by turn and peak memory in MiB of recipe and library; operations per unit."""
    with timing.process(kept=False) as recipe, timing.process() as ours:
        sides = {"recipe": recipe, "ours": ours}

        def seconds(side: str) -> float:
            return sides[side](timing.seconds, name, side, options).result()

        found = timing.in_turns({side: partial(seconds, side) for side in sides}, options.turns)
        peaks = [submit(timing.peak, options.where).result() for submit in sides.values()]
        return list(found.values()), peaks, recipe(timing.flops, name, options).result()


if __name__ == "__main__":
    main()
