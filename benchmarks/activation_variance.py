"""Variance of activations by depth, by the scale of kernels drawn from a prior.

    python -m benchmarks.activation_variance draws=2 figure=docs/activation-variance.png

The 3×3 convolutions of architectures of torchvision are drawn from the prior glyphs-3x3; everything else is
initialised by He's rule (for "images, all layers": drawn by default and calibrated too). The figure is the
variance of each layer's outputs for images with a 1/f spectrum, over that with He's rule in all layers, at
initialisation and without the effect of batch normalisation; the table has the smallest and the largest. Two
controls of fan-in tell what makes the difference: with random signs, kernels are zero on average; with random
signs of their weights they are not smooth either.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.options import Options
from dwp import init_, load_prior
from dwp.priors.base import Prior
from dwp.torchvision_import import torchvision_datasets

SIDE = 32  # of the images
GAINS = ("as drawn", "fan-in", "images", "images, all layers")
CONTROLS = {"fan-in, signs of kernels": (1, 1), "fan-in, signs of weights": (3, 3)}


def rows(options: Options) -> Iterator[dict[str, str]]:
    """Yield a row for each architecture, then draw the figure."""
    torchvision_datasets()  # makes torchvision importable with a CPU-only PyTorch
    import torchvision

    prior, images = load_prior("glyphs-3x3"), smooth_images(8, SIDE, 0)
    ratios = {}
    for name in options.architectures:
        model = torchvision.models.get_model(name).eval()
        logs: dict[str, list[Tensor]] = {gain: [] for gain in ("He", *GAINS, *CONTROLS)}
        for seed, gain in itertools.product(range(options.draws), logs):
            initialise_(model, prior, gain, images, seed)
            logs[gain].append(output_variances(model, images).log())
        he = torch.stack(logs.pop("He"))
        ratios[name] = {gain: (torch.stack(found).mean(0) - he.mean(0)).exp() for gain, found in logs.items()}
        row = {gain: f"{ratio.min():.2g} – {ratio.max():.2g}" for gain, ratio in ratios[name].items()}
        deviation = he.std(0, correction=0).exp().max()
        yield {"architecture": name, **row, "standard deviation of He's draws, factor": f"{deviation:.2g}"}
    draw(ratios, options.figure)


def initialise_(model: nn.Module, prior: Prior, gain: str, images: Tensor, seed: int) -> None:
    """Initialise by He's rule, with zero biases, then the 3×3 convolutions with a gain or control."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weighted(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if gain == "He":
        return
    given = {"as drawn": None, "images": images, "images, all layers": images}.get(gain, "fan_in")
    default = "standard_normal" if gain == "images, all layers" else None
    generator.manual_seed(seed)
    report = init_(model, prior, default=default, gain=given, generator=generator)
    for name in report.changed if gain in CONTROLS else ():
        weight = model.get_parameter(f"{name}.weight").data
        weight.mul_(2 * torch.randint(2, (*weight.shape[:2], *CONTROLS[gain]), generator=generator) - 1)


def weighted(model: nn.Module) -> list[nn.Module]:
    """Return the convolutions and linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@torch.no_grad()
def output_variances(model: nn.Module, images: Tensor) -> Tensor:
    """Return the variance of the outputs of each convolution and linear layer, in order of computation."""
    found: list[Tensor] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        found.append(outputs.double().var())

    handles = [layer.register_forward_hook(record) for layer in weighted(model)]
    model(images)
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


def draw(ratios: dict[str, dict[str, Tensor]], path: str) -> None:
    """Draw the variance of the layers over He's, by depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns, shown = (len(ratios) + 1) // 2, {"figsize": (11, 6.5), "layout": "constrained"}
    figure, axes = pyplot.subplots(2, columns, sharey=True, squeeze=False, **shown)
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


main = measure.command(__doc__, rows)

if __name__ == "__main__":
    main()
