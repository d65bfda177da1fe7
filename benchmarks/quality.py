"""Time to quality: seconds of training to a target, by the recipe and by the library, paired by seed.

    python -m benchmarks.quality data_root=~/data threads=2

Source networks train to the test accuracy `source_accuracy`; VAEs to the held-out ELBO, and few-shot networks
to the test accuracy and NLL, that the recipe has at the end of its schedule with the same seed, within 0.5
nats, 0.01 and 0.02 nats. The option `dwp` lists those of the library alone; by default, its schedules are
short, with small batches or high rates, as in config.yaml and config/mnist-cpu.yaml. Each side has its own
process; the clock stops during the evaluations, every twentieth of a schedule. Seconds are means over the
seeds with which both sides reach the target; their ratio is a geometric mean; intervals are of 95 %. The
share of the product's rate counts the operations of the recipe's networks. Without `target_priors`, the
library fits the VAEs of the few-shot networks beforehand.
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch.utils.benchmark.utils.timer import timer

from benchmarks import measure
from benchmarks.options import Options
from benchmarks.workloads import WORKLOADS, kernels
from dwp.priors.base import save_prior
from dwp.priors.vae import VAE

# For a CPU. The paper's: source_net='[256, 512]' source_steps=23500 target_steps=10000 seeds=10.
CPU = (
    "seeds=3 source_net=[32,64] source_steps=1000 vae_steps=6000 target_steps=2000 target_images=2000 "
    "dwp=[source_batch=32,source_lr=0.005,vae_steps=2000,vae_lr=0.004,target_steps=300,target_batch=50,"
    "target_subset=128]"
)
TRAININGS = (
    ("source", "source network", [], ("accuracy",)),
    ("vae7", "VAE 7×7", [], ("elbo",)),
    ("vae5", "VAE 5×5", [], ("elbo",)),
    ("subset", "few-shot network, n = 50", ["target_examples=50"], ("accuracy", "nll")),
    ("subset", "few-shot network, n = 1,000", ["target_examples=1000"], ("accuracy", "nll")),
)
# Two runs of the same schedule end a little apart. An NLL is better below its target.
TOLERANCES = {"accuracy": 0.01, "elbo": 0.5, "nll": -0.02}
EVALUATIONS = 20
Points = list[tuple[float, dict[str, float]]]


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield a row for each training and metric."""
    for name, title, changes, metrics in TRAININGS:
        if name not in (options.only or WORKLOADS):
            continue
        with tempfile.TemporaryDirectory() as folder:
            recipe = options.changed(changes)
            if name == "subset" and not options.target_priors:
                recipe = replace(recipe, target_priors=fitted_priors(recipe, Path(folder)))
            sides = {"recipe": recipe, "ours": recipe.changed(options.dwp)}
            curves: dict[str, list[Points]] = {side: [] for side in sides}
            for seed in range(options.seeds):
                for side, own in sides.items():
                    with measure.process(kept=side == "ours") as call:
                        curves[side].append(call(curve, name, side, replace(own, seed=seed)))
            shares = [share(name, curves["recipe"], recipe, "float32")]
            shares.append(share(name, curves["ours"], sides["ours"], options.precision))
        for metric in metrics:
            ends = [points[-1][1][metric] - TOLERANCES[metric] for points in curves["recipe"]]
            targets = [options.source_accuracy] * options.seeds if name == "source" else ends
            times = [
                [reached(*each, metric) for each in zip(found, targets, strict=True)]
                for found in curves.values()
            ]
            both = [pair for pair in zip(*times, strict=True) if None not in pair]
            yield {
                "training": title,
                "target": f"{metric} {measure.interval(targets)[0]:.3f}",
                "reached by recipe, dwp": ", ".join(f"{len(t) - t.count(None)} of {len(t)}" for t in times),
                **comparison(both),
                "share of the product's rate: recipe, dwp": "{:.2g}, {:.2g}".format(*shares),
            }


def comparison(both: list[tuple[float, float]]) -> dict[str, str]:
    """Return the cells of the seconds of both sides by seed, and of their ratio."""
    if not both:
        return dict.fromkeys(("seconds, recipe", "seconds, dwp", "ratio"), "–")
    theirs, ours = zip(*both, strict=True)
    mean, half = measure.interval([math.log(recipe / own) for recipe, own in both])
    return {
        "seconds, recipe": "{:.3g} ± {:.2g}".format(*measure.interval(theirs)),
        "seconds, dwp": "{:.3g} ± {:.2g}".format(*measure.interval(ours)),
        "ratio": "{:.3g} ({:.3g}–{:.3g})".format(*map(math.exp, (mean, mean - half, mean + half))),
    }


def fitted_priors(options: Options, folder: Path) -> tuple[str, ...]:
    """Fit the VAEs of the few-shot networks by the library; return their files in a folder."""
    schedule = {name: getattr(options, f"vae_{name}") for name in ("lr", "steps", "batch")}
    for index, size in enumerate((7, 5)):
        sizes = {"hidden": options.vae_hidden[index], "latent": options.vae_latent[index]}
        prior, _ = VAE.fit(*kernels(options, size), {**sizes, "schedule": schedule}, seed=options.seed)
        save_prior(prior, folder / f"vae-{size}x{size}.safetensors")
    return tuple(map(str, folder.iterdir()))


def curve(name: str, side: str, options: Options) -> Points:
    """Train; return seconds of training and metrics at each evaluation after the start."""
    run = measure.prepare(name, side, options)
    points, spent, began = [], 0.0, timer()

    def evaluate() -> dict[str, float]:
        nonlocal spent, began
        spent += timer() - began
        points.append((spent, run.evaluate()))
        began = timer()
        return points[-1][1]

    run.run(evaluate, max(1, run.steps // EVALUATIONS))
    return points[1:]


def reached(points: Points, target: float, metric: str) -> float | None:
    """Return the seconds after which a metric first reaches its target, or None."""
    sign = -1 if metric == "nll" else 1
    return next((seconds for seconds, found in points if sign * found[metric] >= sign * target), None)


def share(name: str, curves: list[Points], options: Options, precision: str) -> float:
    """Return the operations per second of a side, relative to a large matrix product."""
    needed = measure.flops(name, options) * measure.prepare(name, "recipe", options).amount
    seconds, _ = measure.interval([points[-1][0] for points in curves])
    return needed / seconds / measure.product_rate(options, precision)


main = measure.command(__doc__, rows, CPU)

if __name__ == "__main__":
    main()
