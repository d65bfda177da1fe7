"""Variance of activations by depth, by the scale of kernels drawn from a prior.

    python -m benchmarks.activation_variance --output activation-variance.png

Variance: the 3×3 convolutions of architectures of torchvision are drawn from a prior of the collection;
everything else is initialised by He's rule (for "images, all layers": drawn by default and calibrated too).
The figure is the variance of each layer's outputs for images with a 1/f spectrum, over that with He's rule in
all layers, at initialisation and without the effect of batch normalisation. Two controls of fan-in tell what
makes the difference: with random signs, kernels are zero on average; with random signs of their weights they
are not smooth either.
"""

import argparse
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import measure
from dwp import init_, load_prior
from dwp.priors.base import Prior
from dwp.torchvision_import import torchvision_datasets

ARCHITECTURES = ("vgg11", "squeezenet1_1", "resnet18", "densenet121", "mobilenet_v2", "regnet_y_400mf")
GAINS = ("as drawn", "fan-in", "images", "images, all layers")
CONTROLS = {"fan-in, signs of kernels": (1, 1), "fan-in, signs of weights": (3, 3)}


def main(words: list[str] | None = None) -> None:
    """Measure, print the tables, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", default="activation-variance.png", help="file of the figure")
    parser.add_argument("--prior", default="glyphs-3x3", help="over 3×3 kernels (default: glyphs-3x3)")
    parser.add_argument("--architectures", nargs="*", default=ARCHITECTURES, help="of torchvision")
    parser.add_argument("--side", type=int, default=32, help="of the images for the variance (default: 32)")
    parser.add_argument("--draws", type=int, default=3, help="of the weights for the variance (default: 3)")
    options = parser.parse_args(words)
    prior = load_prior(options.prior)
    ratios: dict[str, dict[str, Tensor]] = {}
    title = "Smallest and largest variance of a network's layers over that with He's rule"
    measure.table(title, variances(prior, options, ratios))
    draw(ratios, options.output)


def draw_(model: nn.Module, prior: Prior, gain: str, images: Tensor, seed: int) -> None:
    """Draw the 3×3 convolutions of a model from the prior, with one of the gains or controls."""
    given = {"as drawn": None, "images": images, "images, all layers": images}.get(gain, "fan_in")
    default = "standard_normal" if gain == "images, all layers" else None
    generator = torch.Generator().manual_seed(seed)
    report = init_(model, prior, default=default, gain=given, generator=generator)
    for name in report.changed if gain in CONTROLS else ():
        weight = model.get_parameter(f"{name}.weight").data
        weight.mul_(2 * torch.randint(2, (*weight.shape[:2], *CONTROLS[gain]), generator=generator) - 1)


def weighted(model: nn.Module) -> list[nn.Module]:
    """Return the convolutions and linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def he_(model: nn.Module, seed: int) -> None:
    """Initialise every convolution and linear layer by He's rule (normal), with zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def output_variances(model: nn.Module, images: Tensor) -> Tensor:
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


def variances(
    prior: Prior, options: argparse.Namespace, ratios: dict[str, dict[str, Tensor]]
) -> Iterator[dict[str, str]]:
    """Yield a row for each architecture; add its layers' variances over those of He to `ratios`."""
    torchvision_datasets()
    import torchvision

    images = smooth_images(8, options.side, 0)
    for name in options.architectures:
        model = torchvision.models.get_model(name)
        logs: dict[str, list[Tensor]] = {gain: [] for gain in ("He", *GAINS, *CONTROLS)}
        for seed, gain in itertools.product(range(options.draws), logs):
            he_(model, seed)
            if gain != "He":
                draw_(model, prior, gain, images, seed)
            logs[gain].append(output_variances(model, images).log())
        he = torch.stack(logs.pop("He"))
        ratios[name] = {gain: (torch.stack(found).mean(0) - he.mean(0)).exp() for gain, found in logs.items()}
        row = {gain: f"{ratio.min():.2g} – {ratio.max():.2g}" for gain, ratio in ratios[name].items()}
        yield {
            "architecture": name,
            **row,
            "He's draws, factor": f"{he.std(0, correction=0).exp().max():.2g}",
        }


def draw(ratios: dict[str, dict[str, Tensor]], path: str) -> None:
    """Draw the variance of the layers over He's, by depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, (len(ratios) + 1) // 2, figsize=(11, 6.5), sharey=True, squeeze=False, layout="constrained"
    )
    lines = {gain: {"color": f"C{number}"} for number, gain in enumerate(GAINS)}
    # The colour of the gain that they are controls of, with other lines.
    lines |= {gain: {"color": "C1", "ls": ls} for gain, ls in zip(CONTROLS, ("--", ":"), strict=True)}
    for axis, (name, found) in zip(axes.flat, ratios.items(), strict=False):
        axis.axhspan(0.5, 2, color="0.85")
        for gain, ratio in found.items():
            axis.semilogy(ratio, label=gain, **lines[gain])
        axis.set(title=name, xlabel="layer", ylim=(1e-6, 1e6))
    for axis in axes[:, 0]:
        axis.set_ylabel("variance / that with He's rule")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
