"""Test accuracy with and without the optimisations, paired by seed.

    python -m benchmarks.accuracy data_root=~/data target_priors='[vae-7x7.safetensors, vae-5x5.safetensors]'

For each seed, all rows have the same examples, initial weights and priors; noise and minibatches differ.
Means, also of the differences from the recipe, with 95 % intervals.
"""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import measure
from benchmarks.optimisations import FAST_FORMS
from benchmarks.options import Options
from benchmarks.workloads import WORKLOADS

SMALL = "source_net=[16,32] source_batch=64 source_steps=300 target_net=[16,32] target_steps=1000"
VARIANTS = {
    "recipe": ("recipe", {}),
    "dwp, float32": ("ours", {"precision": "float32"}),
    "dwp, float32, PyTorch's convolutions": ("ours", {"precision": "float32", "without": FAST_FORMS}),
    "dwp, bfloat16": ("ours", {"precision": "bfloat16"}),
}
# The recipe has no subset of kernels: `subset` is compared with the recipe of `step`.
CASES = [
    (name, variant)
    for name in ("source", "step", "subset")
    for variant in VARIANTS
    if (name, variant) != ("subset", "recipe")
]


def rows(options: Options) -> Iterator[dict[str, str]]:
    """Yield a row for each workload and variant."""
    recipe: list[float] = []
    for name, variant in CASES:
        side, changes = VARIANTS[variant]
        found = []
        for seed in range(options.seeds):
            run = measure.prepare(name, side, replace(options, seed=seed, **changes))
            run.run()
            found.append(run.evaluate()["accuracy"])
        recipe = found if side == "recipe" else recipe
        pairs = [mine - theirs for mine, theirs in zip(found, recipe, strict=True)]
        yield {
            "workload": WORKLOADS[name].title,
            "variant": variant,
            "accuracy": "{:.3f} ± {:.3f}".format(*measure.interval(found)),
            "minus the recipe": "{:+.3f} ± {:.3f}".format(*measure.interval(pairs)),
            "by seed": " ".join(f"{value:.3f}" for value in found),
        }


main = measure.command(__doc__, rows, SMALL)

if __name__ == "__main__":
    main()
