"""Test accuracy with and without the optimisations, paired by seed.

    python -m benchmarks.accuracy data_root=~/data priors='[vae-7x7.safetensors, vae-5x5.safetensors]'

For each seed, all rows have the same examples, initial weights and priors; noise and minibatches differ.
Mean ± standard deviation; differences from the recipe with 95 % intervals.
"""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import tables, timing
from benchmarks.options import Options, read
from benchmarks.workloads import WORKLOADS

SMALL = {
    "source_net": [16, 32],
    "source_batch": 64,
    "source_steps": 300,
    "target_net": [16, 32],
    "steps": 1000,
}
FLOAT, HALF = {"precision": "float32"}, {"precision": "bfloat16"}
PYTORCH = {**FLOAT, "without": "fast convolution forms"}
VARIANTS = (
    ("source", "recipe", "recipe", {}),
    ("source", "dwp, float32", "ours", FLOAT),
    ("source", "dwp, float32, PyTorch's convolutions", "ours", PYTORCH),
    ("source", "dwp, bfloat16", "ours", HALF),
    ("step", "recipe", "recipe", {}),
    ("step", "dwp, float32", "ours", FLOAT),
    ("step", "dwp, float32, PyTorch's convolutions", "ours", PYTORCH),
    ("subset", "dwp, float32", "ours", FLOAT),
    ("subset", "dwp, bfloat16", "ours", HALF),
)


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = read(__doc__, words, **SMALL)
    tables.table(timing.machine(options), rows(options))


def rows(options: Options) -> Iterator[dict[str, str]]:
    """Yield a row for each variant."""
    for name, title, side, changes in VARIANTS:
        found = []
        for seed in range(options.seeds):
            run = timing.prepare(name, side, replace(options, seed=seed, **changes))
            run.run()
            found.append(run.evaluate()["accuracy"])
        if side == "recipe":
            reference = found
        accuracy, difference = tables.by_seed(found, reference)
        yield {
            "workload": WORKLOADS[name].title,
            "variant": title,
            "accuracy": accuracy,
            "minus the recipe": difference,
            "by seed": " ".join(f"{value:.3f}" for value in found),
        }


if __name__ == "__main__":
    main()
