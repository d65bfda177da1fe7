"""Time to quality: seconds of training to a target, by the recipe and by the library, paired by seed.

    python -m benchmarks.quality data_root=~/data threads=2

Source networks train to the test accuracy `target`; VAEs to the held-out ELBO, and few-shot networks to the
test accuracy and NLL (nats), that the recipe has at the end of its schedule with the same seed. `dwp` lists
options of the library alone; by default its schedules are those of config/mnist-cpu.yaml. Each side has its
own process; the clock stops during the evaluations, every twentieth of a schedule. Seconds are means over the
seeds with which both sides reach the target; their ratio is a geometric mean; 95 % intervals. The share of
the product's rate counts the operations of the recipe's networks. Without `priors`, the library fits the VAEs
of the few-shot networks beforehand.
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace

from torch.utils.benchmark.utils.timer import timer

from benchmarks import inputs, tables, timing
from benchmarks.options import Options, read
from benchmarks.workloads import WORKLOADS

# Sizes for a CPU. The paper's: source_net='[256, 512]' source_steps=23500 steps=10000 seeds=10.
CPU = {"seeds": 3, "source_net": [32, 64], "source_steps": 1000, "vae_steps": 6000, "steps": 2000}
CPU |= {
    "test_images": 2000,
    "dwp": ["source_batch=32", "source_lr=0.005", "steps=300", "batch=50", "subset=128"],
}
TRAININGS = (
    ("source", [], ("accuracy",)),
    ("vae7", [], ("elbo",)),
    ("vae5", [], ("elbo",)),
    ("subset", ["examples=50"], ("accuracy", "nll")),
    ("subset", ["examples=1000"], ("accuracy", "nll")),
)
EVALUATIONS = 20


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = read(__doc__, words, **CPU)
    with tempfile.TemporaryDirectory() as folder:
        if not options.priors:
            options = replace(options, priors=inputs.fitted_priors(options, folder))
        tables.table(timing.machine(options), rows(options))


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield a row for each training and metric."""
    for name, changes, metrics in TRAININGS:
        if name not in (options.only or WORKLOADS):
            continue
        recipe = options.changed(changes)
        sides = {"recipe": recipe, "ours": recipe.changed(options.dwp)}
        curves: dict[str, list] = {side: [] for side in sides}
        for seed in range(options.seeds):
            for side, own in sides.items():
                with timing.process(kept=side == "ours") as submit:
                    curves[side].append(submit(curve, name, side, replace(own, seed=seed)).result())
        shares = []
        for (side, own), precision in zip(sides.items(), ("float32", options.precision), strict=True):
            rate, _ = tables.interval([amount / points[-1][0] for points, amount in curves[side]])
            shares.append(rate * timing.flops(name, own) / timing.product_rate(own, precision))
        for metric in metrics:
            ends = [points[-1][1][metric] for points, _ in curves["recipe"]]
            targets = [options.target] * options.seeds if name == "source" else ends
            times = [
                [
                    reached(points, metric, target)
                    for (points, _), target in zip(curves[side], targets, strict=True)
                ]
                for side in sides
            ]
            both = [pair for pair in zip(*times, strict=True) if None not in pair]
            yield {
                "training": " ".join([WORKLOADS[name].title.partition(" step")[0], *changes]),
                "target": f"{metric} {tables.interval(targets)[0]:.3f}",
                "reached by recipe, dwp": ", ".join(f"{len(t) - t.count(None)} of {len(t)}" for t in times),
                "seconds, recipe": mean([pair[0] for pair in both]),
                "seconds, dwp": mean([pair[1] for pair in both]),
                "ratio": ratio(both),
                "share of the product's rate: recipe, dwp": ", ".join(f"{share:.2f}" for share in shares),
            }


def curve(name: str, side: str, options: Options) -> tuple[list[tuple[float, dict[str, float]]], float]:
    """Train; return seconds of training and metrics at each evaluation, and the number of units."""
    run = timing.prepare(name, side, options)
    points, spent, began = [], 0.0, timer()

    def evaluate() -> dict[str, float]:
        nonlocal spent, began
        spent += timer() - began
        points.append((spent, run.evaluate()))
        began = timer()
        return points[-1][1]

    run.run(evaluate, max(1, run.steps // EVALUATIONS))
    return points[1:], run.amount


def reached(points: list[tuple[float, dict[str, float]]], metric: str, target: float) -> float | None:
    """Return the seconds after which a metric first reaches its target, or None."""
    sign = -1 if metric == "nll" else 1
    return next((seconds for seconds, found in points if sign * found[metric] >= sign * target), None)


def mean(values: list[float]) -> str:
    """Return the mean with its interval."""
    return " ± ".join(map(tables.number, tables.interval(values))) if values else "–"


def ratio(pairs: list[tuple[float, float]]) -> str:
    """Return the geometric mean of the ratios of recipe to library, with its interval."""
    if not pairs:
        return "–"
    middle, half = tables.interval([math.log(recipe / ours) for recipe, ours in pairs])
    low, best, high = (tables.number(math.exp(middle + side * half)) for side in (-1, 0, 1))
    return f"{best} ({low}–{high})"


if __name__ == "__main__":
    main()
