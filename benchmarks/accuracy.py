"""Test accuracy with and without the optimisations, over several seeds.

    python -m benchmarks.accuracy --data-root ~/data --priors vae-7x7.safetensors vae-5x5.safetensors

The recipe (benchmarks/baseline.py) and the library, with all optimisations and with one changed. For each
seed, they have the same examples, initial weights and priors; noise and minibatches differ.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks import baseline, workloads
from benchmarks.ablations import pytorch_convolutions
from benchmarks.material import LR, Material, network
from benchmarks.published import parser_of, prepare, row
from dwp import metrics
from dwp.errors import InputError
from dwp.experiments import source_nets
from dwp.initialisation import build_initialised

SOURCE_BATCH, SOURCE_TEST_IMAGES = 64, 1000
HEADER = ("workload", "how", "accuracy, mean ± sd", "by seed")


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default: 5)")
    parser.add_argument("--network", type=int, nargs=2, default=(16, 32), help="channels (default: 16 32)")
    parser.add_argument("--steps", type=int, default=1000, help="of a few-shot network (default: 1000)")
    parser.add_argument("--source-steps", type=int, default=300, help="of a source net (default: 300)")
    arguments = parser.parse_args(words)
    try:
        prepared, header = prepare(arguments)
        sizes = replace(
            prepared.sizes,
            target=tuple(arguments.network),
            source=tuple(arguments.network),
            source_batch=min(SOURCE_BATCH, prepared.sizes.source_batch),
            source_steps=arguments.source_steps,
            source_test_images=SOURCE_TEST_IMAGES,
            steps=arguments.steps,
            run_steps=arguments.steps,
            run_every=arguments.steps,
        )
        print(*header[:-1], f"{sizes}\n", row(HEADER), row(["---"] * len(HEADER)), sep="\n", flush=True)
        for (workload, how), train in WAYS.items():
            found = []
            for seed in range(arguments.seeds):
                material = Material(replace(prepared.options, seed=seed))
                material.sizes = sizes
                found.append(train(material))
            mean, deviation = statistics.mean(found), statistics.stdev(found)
            each = " ".join(f"{accuracy:.3f}" for accuracy in found)
            print(row([workload, how, f"{mean:.3f} ± {deviation:.3f}", each]), flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")


def source_recipe(m: Material) -> float:
    """Train a source network by the recipe; return its test accuracy."""
    torch.manual_seed(m.seed)
    images, labels = m.source.train_images, m.source.train_labels
    model = baseline.ConvNet(*m.sizes.source).to(m.device)
    described = network(*m.sizes.source), m.source.image_shape, m.source.classes
    workloads.copy_network(build_initialised(*described, m.seed), model)
    amount = m.sizes.source_batch * m.sizes.source_steps
    loader = baseline.image_loader(
        images[:amount], labels[:amount], m.sizes.source_batch, shuffle=True, workers=m.options.workers
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    baseline.train_source(model, optimizer, loader, workloads.SOURCE_L2, m.device)
    test = baseline.image_loader(
        m.source.test_images, m.source.test_labels, baseline.TEST_BATCH, shuffle=False
    )
    probabilities, labels = baseline.predict(model, test, m.device)
    return metrics.accuracy(probabilities, labels)


def source_ours(m: Material, precision: str = "float32") -> float:
    """Train a source network as the workflow does, for one epoch; return its test accuracy."""
    settings = m.source_settings(workloads.SOURCE_L2, precision)
    return source_nets.train(m.seed, m.source, settings, m.device)[1]["accuracy"]


def few_shot_recipe(m: Material) -> float:
    """Train a few-shot network by the recipe; return its ensemble's test accuracy."""
    torch.manual_seed(m.seed)
    model, priors = workloads.baseline_bayesian(m)
    workloads.baseline_training(m, model, priors)
    loader = baseline.image_loader(
        m.target.test_images, m.target.test_labels, baseline.TEST_BATCH, shuffle=False
    )
    return baseline.evaluate(model, loader, m.device, m.sizes.members)["ensemble"]


def few_shot_ours(m: Material, subset: int | None = None, precision: str = "float32") -> float:
    """Train a few-shot network as the workflow does; return its ensemble's test accuracy."""
    m.precision = precision
    return {row["metric"]: row["value"] for row in workloads.ours_run(m, subset)}["accuracy"]


def without_products(train: Callable[[Material], float]) -> Callable[[Material], float]:
    """Return the same function with every convolution left to PyTorch."""

    def away(m: Material) -> float:
        with pytorch_convolutions():
            return train(m)

    return away


SOURCE, FEW_SHOT = "source net", "few-shot network"
WAYS: dict[tuple[str, str], Callable[[Material], float]] = {
    (SOURCE, "recipe"): source_recipe,
    (SOURCE, "ours, float32"): source_ours,
    (SOURCE, "ours, float32, PyTorch's convolutions"): without_products(source_ours),
    (SOURCE, "ours, bfloat16"): partial(source_ours, precision="bfloat16"),
    (FEW_SHOT, "recipe"): few_shot_recipe,
    (FEW_SHOT, "ours, float32, all kernels"): few_shot_ours,
    (FEW_SHOT, "ours, float32, all kernels, PyTorch's convolutions"): without_products(few_shot_ours),
    (FEW_SHOT, f"ours, float32, {workloads.SUBSET} kernels"): partial(few_shot_ours, subset=workloads.SUBSET),
    (FEW_SHOT, f"ours, bfloat16, {workloads.SUBSET} kernels"): partial(
        few_shot_ours, subset=workloads.SUBSET, precision="bfloat16"
    ),
}


if __name__ == "__main__":
    main()
