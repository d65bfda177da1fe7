"""Variance of activations by depth, and short training, by the scale of kernels drawn from a prior.

    python -m benchmarks.activation_variance --output activation-variance

Variance: the 3×3 convolutions of architectures of torchvision are drawn from a prior of the collection;
everything else is initialised by He's rule (for "images, all layers": drawn by default and calibrated too).
The figure is the variance of each layer's outputs, over that with He's rule in all layers, at initialisation
and without the effect of batch normalisation. Two controls of fan-in tell what makes the difference: with
random signs, kernels are zero on average; with random signs of their weights they are not smooth either.
Training: the source networks of the prior, in several widths, on 200 digits or glyphs, by initialisation.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dwp import init_, load_prior, metrics, predict
from dwp.bayes.objectives import cross_entropy
from dwp.bayes.prior_choice import fan_in
from dwp.data import catalogue
from dwp.data.dataset import Dataset
from dwp.initialisation import build_initialised
from dwp.nn.spec import Conv, Network
from dwp.priors.base import Prior
from dwp.report.aggregation import paired, summarise
from dwp.torchvision_import import torchvision_datasets
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

ARCHITECTURES = ("vgg11", "squeezenet1_1", "resnet18", "densenet121", "mobilenet_v2", "regnet_y_400mf")
GAINS = ("as drawn", "fan-in", "images", "images, all layers")
CONTROLS = {"fan-in, signs of kernels": (1, 1), "fan-in, signs of weights": (3, 3)}
SIZE = 3
METRICS = ("accuracy", "nll")
WIDTHS = (0.25, 1.0, 2.0)  # relative to the source networks of the prior glyphs-3x3
NETWORK = Network(
    layers=(
        Conv(conv=16, kernel=SIZE, pool=2),
        Conv(conv=32, kernel=SIZE, pool=2),
        Conv(conv=32, kernel=SIZE, pool=2),
    ),
    batch_norm=False,
)


def main(words: list[str] | None = None) -> None:
    """Measure, print the tables, and write the figure and its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--output", default="activation-variance", help="files <output>.json and <output>.png"
    )
    parser.add_argument("--prior", default="glyphs-3x3", help="over 3×3 kernels (default: glyphs-3x3)")
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES), help="none: no variance")
    parser.add_argument("--side", type=int, default=32, help="of the images for the variance (default: 32)")
    parser.add_argument("--draws", type=int, default=3, help="of the weights for the variance (default: 3)")
    parser.add_argument(
        "--seeds", type=int, default=10, help="of the training comparison (default: 10; 0: none)"
    )
    parser.add_argument("--steps", type=int, default=100, help="of each training run (default: 100)")
    arguments = parser.parse_args(words)
    glyphs = catalogue.build("glyphs", downloads=".", options={"train": 200, "test": 1000})
    digits = catalogue.build("digits", downloads=".")
    prior = load_prior(arguments.prior)
    found = {
        "variance": [
            row
            for name in arguments.architectures
            for row in variances(name, prior, arguments.side, arguments.draws)
        ],
        "training": [
            row
            for dataset, data in (("glyphs", glyphs), ("digits", digits))
            for width in WIDTHS
            for row in training(dataset, data, prior, width, arguments.seeds, arguments.steps)
        ],
    }
    Path(f"{arguments.output}.json").write_text(json.dumps(found, indent=1))
    print("\n".join(tables(found)))
    if found["variance"]:
        draw(found["variance"], Path(f"{arguments.output}.png"))


def draw_(model: nn.Module, prior: Prior, gain: str, images: Tensor, seed: int) -> None:
    """Draw the 3×3 convolutions of a model from the prior, with one of the gains or controls."""
    given = {"as drawn": None, "images": images, "images, all layers": images}.get(gain, "fan_in")
    default = "standard_normal" if gain == "images, all layers" else None
    generator = torch.Generator().manual_seed(seed)
    report = init_(model, prior, default=default, gain=given, generator=generator)
    if gain in CONTROLS:
        for name in report.changed:
            weight = model.get_parameter(f"{name}.weight").data
            signs = torch.randint(2, (*weight.shape[:2], *CONTROLS[gain]), generator=generator)
            weight.mul_(2 * signs - 1)


# Variance by depth


@torch.no_grad()
def he_(model: nn.Module, seed: int) -> None:
    """Initialise every convolution and linear layer by He's rule (normal), with zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted(model):
        noise = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.copy_(noise * (2 / fan_in(layer)) ** 0.5)
        if layer.bias is not None:
            layer.bias.zero_()


def weighted(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the convolutions and linear layers of a model."""
    return (module for module in model.modules() if isinstance(module, _ConvNd | nn.Linear))


@torch.no_grad()
def trace(model: nn.Module, images: Tensor) -> Tensor:
    """Return the variance of the outputs of each convolution and linear layer, in order of computation."""
    found: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda layer, x, y: found.append(y.double().var()))
        for layer in weighted(model)
    ]
    model.eval()(images)
    for handle in handles:
        handle.remove()
    return torch.stack(found)


def smooth_images(number: int, side: int, seed: int) -> Tensor:
    """Return images [n, 3, side, side] with the amplitudes of natural ones, 1 / frequency; variance 1."""
    frequency = torch.fft.fftfreq(side)
    radius = torch.hypot(frequency[:, None], frequency)
    radius[0, 0] = 1 / side
    noise = torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(seed))
    images = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    return (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)


def variances(name: str, prior: Prior, side: int, draws: int) -> Iterator[dict]:
    """Yield a row for each kind of images and gain: the variance of each layer over that of He."""
    torchvision_datasets()
    import torchvision

    model = torchvision.models.get_model(name).eval()
    inputs = {
        "noise": torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0)),
        "smooth": smooth_images(8, side, 0),
    }
    for kind, images in inputs.items():
        logs: dict[str, list[Tensor]] = {"He": [], **{gain: [] for gain in (*GAINS, *CONTROLS)}}
        for seed in range(draws):
            for gain in logs:
                he_(model, seed)
                if gain != "He":
                    draw_(model, prior, gain, images, seed)
                logs[gain].append(trace(model, images).log())
        reference = torch.stack(logs["He"]).mean(0)
        for gain in (*GAINS, *CONTROLS):
            ratios = (torch.stack(logs[gain]).mean(0) - reference).exp()
            yield {"architecture": name, "images": kind, "gain": gain, "ratio": ratios.tolist()}
        spread = torch.stack(logs["He"]).std(0, correction=0).exp().max().item()
        yield {
            "architecture": name,
            "images": kind,
            "gain": "He",
            "ratio": [1.0] * len(reference),
            "spread": spread,
        }


# Training


def training(
    name: str, dataset: Dataset, prior: Prior, width: float, seeds: int, steps: int
) -> Iterator[dict]:
    """Yield tidy rows: test accuracy and NLL of each seed and initialisation, trained on 200 examples."""
    data = dataset.images("train")[:200], dataset.labels("train")[:200]
    for seed in range(seeds):
        for start in ("xavier", "he", *GAINS[:3]):
            rule = start if start in ("xavier", "he") else "he"
            origins = {layer: rule for layer in NETWORK.layer_sizes()}
            described = NETWORK, dataset.image_shape, dataset.classes, seed
            model = build_initialised(*described, width=width, origins=origins)
            if start in GAINS:
                draw_(model, prior, start, data[0][:64], seed)
            schedule = Schedule(lr=1e-3, steps=steps, batch=64, precision="float32")
            fit(model, cross_entropy(model, 3e-4), data, schedule, seed=seed)
            probabilities = predict(model, dataset.images("test"), 0)[0]
            labels = dataset.labels("test")
            for metric in METRICS:
                value = getattr(metrics, metric)(probabilities, labels)
                cell = {"experiment": name, "setting": width, "method": start, "metric": metric, "part": 0}
                yield cell | {"seed": seed, "step": steps, "value": value}


# Tables and figure


def tables(found: dict) -> Iterator[str]:
    """Yield the lines of both tables."""
    rows = [row for row in found["variance"] if row["gain"] != "He"]
    yield f"| architecture | images | {' | '.join((*GAINS, *CONTROLS))} |"
    yield "|---" * (2 + len(GAINS) + len(CONTROLS)) + "|"
    for (name, images), group in itertools.groupby(rows, lambda row: (row["architecture"], row["images"])):
        ranges = [f"{min(row['ratio']):.2g} – {max(row['ratio']):.2g}" for row in group]
        yield f"| {name} | {images} | {' | '.join(ranges)} |"
    for row in found["variance"]:
        if row["gain"] == "He":
            spread = f"standard deviation of the log variance, He, at most: factor {row['spread']:.2g}"
            yield f"{row['architecture']}, {row['images']}: {spread}"
    if not found["training"]:
        return
    yield (
        "\n| data | width | initialisation | accuracy | against He | NLL | against He |\n" + "|---" * 7 + "|"
    )
    training = pd.DataFrame(found["training"])
    means = summarise(training).set_index(["experiment", "setting", "method", "metric"])
    against = paired(training, METRICS, "he").set_index(["experiment", "setting", "method", "metric"])
    for cell in dict.fromkeys(key[:3] for key in means.index):
        texts = []
        for metric in METRICS:
            one = means.loc[(*cell, metric)]
            texts.append(f"{one['mean']:.3f} ± {one['std'] / one['n'] ** 0.5:.3f}")
            pair = against.loc[(*cell, metric)] if cell[2] != "he" else None
            texts.append("" if pair is None else f"{pair['difference']:+.3f} ± {pair['half_width']:.3f}")
        yield f"| {cell[0]} | {cell[1]:g} | {cell[2]} | {' | '.join(texts)} |"


def draw(rows: list[dict], path: Path) -> None:
    """Draw the variance of the layers over He's, by depth, for smooth images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["architecture"] for row in rows))
    figure, axes = pyplot.subplots(
        2, (len(names) + 1) // 2, figsize=(11, 6.5), sharey=True, squeeze=False, layout="constrained"
    )
    lines = {gain: {"color": f"C{number}"} for number, gain in enumerate(GAINS)}
    # The colour of the gain that they are controls of, with other lines.
    lines |= {gain: {"color": "C1", "ls": ls} for gain, ls in zip(CONTROLS, ("--", ":"), strict=True)}
    for axis, name in zip(axes.flat, names, strict=False):
        axis.axhspan(0.5, 2, color="0.85")
        for row in rows:
            if row["architecture"] == name and row["images"] == "smooth" and row["gain"] != "He":
                axis.semilogy(row["ratio"], label=row["gain"], **lines[row["gain"]])
        axis.set(title=name, xlabel="layer", ylim=(1e-6, 1e6))
    for axis in axes[:, 0]:
        axis.set_ylabel("variance / that with He's rule")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
