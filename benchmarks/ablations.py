"""Ablations: the time of each workload without one optimisation, relative to the time with it.

    python -m benchmarks.ablations data_root=~/data threads=2

An ablation replaces one optimisation by the published recipe's method. A ratio is the median over turns, with
the smallest and the largest in brackets; above 1, the optimisation helps. The gains of two do not multiply.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks import measure
from benchmarks.optimisations import MEMORY_KEPT, OPTIMISATIONS
from benchmarks.options import Options
from benchmarks.workloads import WORKLOADS
from dwp.nn.precision import choose_precision


def rows(options: Options) -> Iterator[dict[str, str]]:
    """Yield a row for each workload and each of its optimisations."""
    for name in options.only or WORKLOADS:
        titles = ["nothing", *(title for title, (_, affected) in OPTIMISATIONS.items() if name in affected)]
        variants = {title: replace(options, without=title) for title in titles}
        if choose_precision(options.precision, options.where) == torch.bfloat16:
            variants["bfloat16"] = replace(options, precision="float32")
        with measure.process() as kept, measure.process(kept=False) as returned:
            calls = {
                title: partial(
                    returned if title == MEMORY_KEPT else kept, measure.seconds, name, "ours", variant
                )
                for title, variant in variants.items()
            }
            found = measure.in_turns(calls, options.turns)
        complete = found.pop("nothing")
        for title, values in found.items():
            ratio = measure.spread([without / all_ for without, all_ in zip(values, complete, strict=True)])
            yield {"workload": WORKLOADS[name].title, "optimisation": title, "slowdown without it": ratio}


main = measure.command(__doc__, rows)

if __name__ == "__main__":
    main()
