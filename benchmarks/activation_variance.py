"""Variance of activations by depth, and short training, by the scale of kernels drawn from a prior.

    python -m benchmarks.activation_variance --output activation-variance

Gaussian priors are fitted to the kernels of small networks with 3×3 kernels that are trained on the glyphs.
Variance: the 3×3 convolutions of architectures of torchvision are drawn from the prior, everything else is
initialised by He's rule (for "images, all layers": drawn by default and calibrated too); the figure is the
variance of each layer's outputs, over that with He's rule in all layers, at initialisation and without the
effect of batch normalisation. Training: a network of 3×3 convolutions on 200 digits or glyphs, by
initialisation, as wide as the source networks or a quarter of it.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dwp import init_, metrics, predict
from dwp.bayes.objectives import cross_entropy
from dwp.bayes.prior_choice import fan_in
from dwp.data import catalogue
from dwp.data.dataset import Dataset
from dwp.initialisation import build_initialised
from dwp.nn import convnet
from dwp.nn.spec import Conv, Network
from dwp.priors.base import Prior
from dwp.priors.gaussian import Gaussian
from dwp.torchvision_import import torchvision_datasets
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

ARCHITECTURES = ("vgg11", "squeezenet1_1", "resnet18", "densenet121", "mobilenet_v2", "regnet_y_400mf")
GAINS = ("as drawn", "fan-in", "images", "images, all layers")
TRAIN = 4_000  # glyphs for the source networks
SIZE = 3
WIDTHS = (1.0, 0.25)  # of the networks of the training comparison, relative to the source networks
NETWORK = Network(
    layers=(
        Conv(conv=32, kernel=SIZE, pool=2),
        Conv(conv=64, kernel=SIZE, pool=2),
        Conv(conv=64, kernel=SIZE),
    ),
    batch_norm=False,
)


def main(words: list[str] | None = None) -> None:
    """Measure, print the tables, and write the figure and its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--output", default="activation-variance", help="files <output>.json and <output>.png"
    )
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--side", type=int, default=32, help="of the images for the variance (default: 32)")
    parser.add_argument("--draws", type=int, default=3, help="of the weights for the variance (default: 3)")
    parser.add_argument("--nets", type=int, default=3, help="source networks (default: 3)")
    parser.add_argument("--source-steps", type=int, default=378, help="of each (default: 378)")
    parser.add_argument("--seeds", type=int, default=5, help="of the training comparison (default: 5)")
    parser.add_argument("--steps", type=int, default=100, help="of each training run (default: 100)")
    arguments = parser.parse_args(words)
    glyphs = catalogue.build("glyphs", downloads=".", options={"train": TRAIN, "test": 1000})
    digits = catalogue.build("digits", downloads=".")
    prior = fit_prior(glyphs, arguments.nets, arguments.source_steps)
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
    draw(found["variance"], Path(f"{arguments.output}.png"))


def fit_prior(dataset: Dataset, nets: int, steps: int) -> Prior:
    """Return a Gaussian fitted to the kernels of networks trained on a data set."""
    kernels = []
    for seed in range(nets):
        model = train(
            build_initialised(NETWORK, dataset.image_shape, dataset.classes, seed), dataset, 2e-3, steps, seed
        )
        kernels += [
            layer.weight.detach().reshape(-1, 1, SIZE, SIZE) for _, layer in convnet.convolutions(model)
        ]
    pooled = torch.cat(kernels)
    shuffled = pooled[torch.randperm(len(pooled), generator=torch.Generator().manual_seed(0))]
    return Gaussian.fit(shuffled, shuffled[:1000], {}, seed=0)[0]


def train(
    model: nn.Module, dataset: Dataset, lr: float, steps: int, seed: int, examples: int = 4000
) -> nn.Module:
    """Train a classifier on the first examples of a data set; return it."""
    data = dataset.images("train")[:examples], dataset.labels("train")[:examples]
    schedule = Schedule(lr=lr, steps=steps, batch=64, precision="float32")
    fit(model, cross_entropy(model, 3e-4), data, schedule, seed=seed)
    return model


def draw_(model: nn.Module, prior: Prior, gain: str, images: Tensor, seed: int) -> None:
    """Draw the 3×3 convolutions of a model from the prior, with one of the gains."""
    given = {"as drawn": None, "fan-in": "fan_in"}.get(gain, images)
    default = "standard_normal" if gain == "images, all layers" else None
    init_(model, prior, default=default, gain=given, generator=torch.Generator().manual_seed(seed))


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
        logs: dict[str, list[Tensor]] = {"He": [], **{gain: [] for gain in GAINS}}
        for seed in range(draws):
            for gain in logs:
                he_(model, seed)
                if gain != "He":
                    draw_(model, prior, gain, images, seed)
                logs[gain].append(trace(model, images).log())
        reference = torch.stack(logs["He"]).mean(0)
        for gain in GAINS:
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
    """Yield the test accuracy and NLL of each seed and initialisation, trained on 200 examples."""
    images = dataset.images("train")[:64]
    for seed in range(seeds):
        for start in ("xavier", "he", *GAINS[:3]):
            rule = start if start in ("xavier", "he") else "he"
            origins = {layer: rule for layer in NETWORK.layer_sizes()}
            described = NETWORK, dataset.image_shape, dataset.classes, seed
            model = build_initialised(*described, width=width, origins=origins)
            if start in GAINS:
                draw_(model, prior, start, images, seed)
            train(model, dataset, 1e-3, steps, seed, examples=200)
            probabilities = predict(model, dataset.images("test"), 0)[0]
            labels = dataset.labels("test")
            yield {
                "data": f"{name}, width {width:g}",
                "seed": seed,
                "start": start,
                "accuracy": metrics.accuracy(probabilities, labels),
                "nll": metrics.nll(probabilities, labels),
            }


# Tables and figure


def tables(found: dict) -> Iterator[str]:
    """Yield the lines of both tables."""
    yield "| architecture | images | scale | smallest | largest | last layer |\n|---|---|---|---|---|---|"
    for row in found["variance"]:
        if row["gain"] != "He":
            ratio = row["ratio"]
            numbers = " | ".join(f"{value:.2g}" for value in (min(ratio), max(ratio), ratio[-1]))
            yield f"| {row['architecture']} | {row['images']} | {row['gain']} | {numbers} |"
    yield "\n| data | initialisation | accuracy | NLL |\n|---|---|---|---|"
    for data in dict.fromkeys(row["data"] for row in found["training"]):
        for start in dict.fromkeys(row["start"] for row in found["training"]):
            rows = [row for row in found["training"] if (row["data"], row["start"]) == (data, start)]
            texts = []
            for metric in ("accuracy", "nll"):
                values = torch.tensor([row[metric] for row in rows], dtype=torch.float64)
                error = (
                    values.std(correction=1) / len(values) ** 0.5 if len(values) > 1 else torch.tensor(0.0)
                )
                texts.append(f"{values.mean():.3f} ± {error:.3f}")
            yield f"| {data} | {start} | {' | '.join(texts)} |"


def draw(rows: list[dict], path: Path) -> None:
    """Draw the variance of the layers over He's, by depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["architecture"] for row in rows))
    figure, axes = pyplot.subplots(
        2, (len(names) + 1) // 2, figsize=(11, 6), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for row in rows:
            if row["architecture"] == name and row["gain"] != "He":
                style = "-" if row["images"] == "smooth" else ":"
                label = f"{row['gain']}, {row['images']}"
                axis.semilogy(row["ratio"], style, color=f"C{GAINS.index(row['gain'])}", label=label)
        axis.axhspan(0.5, 2, color="0.85")
        axis.set(title=name, xlabel="layer", ylabel="variance / He's")
        axis.set_ylim(1e-6, 1e6)
    axes.flat[0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
