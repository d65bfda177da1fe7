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

from benchmarks import measure
from benchmarks.options import Options
from benchmarks.workloads import WORKLOADS

STEPS, EVALUATIONS, GOAL = 10_000, 100, 15
COLUMNS = (
    *("workload", "unit", "recipe", "dwp", "speed-up", "goal", "peak memory, MiB: recipe, dwp"),
    *("MFLOP per unit", "share of the product's rate: recipe, dwp"),
)


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield the rows of the table."""
    rates = [measure.product_rate(options, precision) for precision in ("float32", options.precision)]
    product = f"product of {options.product}×{options.product}, in the precision of each"
    yield row(product, "GFLOP/s", *(rate / 1e9 for rate in rates), rates[1] / rates[0])
    medians, peaks = {}, {}
    for name in options.only or WORKLOADS:
        with measure.process(kept=False) as recipe, measure.process() as ours:
            sides = {"recipe": recipe, "ours": ours}
            calls = {
                side: partial(call, measure.seconds, name, side, options) for side, call in sides.items()
            }
            found = list(measure.in_turns(calls, options.turns).values())
            peaks[name] = [call(measure.peak, options.where.type) for call in sides.values()]
            flops = recipe(measure.flops, name, options)
        medians[name] = [statistics.median(each) for each in found]
        shares = [flops / median / rate for median, rate in zip(medians[name], rates, strict=True)]
        yield row(
            WORKLOADS[name].title,
            WORKLOADS[name].unit,
            *(measure.spread([1 / value for value in each]) for each in found),
            measure.spread([theirs / mine for theirs, mine in zip(*found, strict=True)]),
            f"≥ {WORKLOADS[name].goal}",
            "{:.0f}, {:.0f}".format(*peaks[name]),
            flops / 1e6,
            "{:.2g}, {:.2g}".format(*shares),
        )
    for name in ("step", "subset"):
        if {name, "evaluation"} <= medians.keys():
            parts = zip(medians[name], medians["evaluation"], strict=True)
            theirs, ours = (STEPS * step + EVALUATIONS * evaluation for step, evaluation in parts)
            memory = "{:.0f}, {:.0f}".format(*map(max, peaks[name], peaks["evaluation"]))
            yield row(
                f"whole run: {WORKLOADS[name].title}", "s", theirs, ours, theirs / ours, f"≥ {GOAL}", memory
            )


def row(*cells: object) -> dict[str, object]:
    """Return a row of the table, the last cells of which may be missing."""
    return dict.fromkeys(COLUMNS, "") | dict(zip(COLUMNS, cells, strict=False))


main = measure.command(__doc__, rows)

if __name__ == "__main__":
    main()
