"""Ablations: the time of each workload without one optimisation, relative to the time with it.

    python -m benchmarks.ablations --data-root ~/data --threads 2

An ablation replaces one optimisation by the published recipe's method, in this process only.
A ratio is the median over turns, with the smallest and the largest in brackets; above 1, the
optimisation helps. The gains of two optimisations do not multiply.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks import baseline
from benchmarks.material import Material, Options
from benchmarks.published import parser_of, prepare, row, spread
from benchmarks.timing import Side, Spread, in_turns, seconds, with_memory_kept
from benchmarks.workloads import WORKLOADS
from dwp.bayes import bayesian_layer, layers
from dwp.errors import InputError
from dwp.nn import convnet
from dwp.nn.conv import Conv2d, ConvTranspose2d, MaxPool2d, pytorch_only
from dwp.nn.noise import Noise
from dwp.nn.precision import choose_precision
from dwp.training import loop

STEPS = ("source", "step")
Away = Callable[[], contextlib.AbstractContextManager]


@dataclass(frozen=True)
class Ablation:
    """An optimisation, the workloads (of `WORKLOADS`) that it affects, and a context that disables it."""

    title: str
    workloads: tuple[str, ...]
    away: Away


@contextlib.contextmanager
def plain_adam() -> Iterator[None]:
    """Use PyTorch's default implementation of Adam."""
    adam = torch.optim.Adam
    with patch.object(torch.optim, "Adam", lambda parameters, lr, fused: adam(parameters, lr=lr)):
        yield


@contextlib.contextmanager
def built_otherwise(change: Callable[[nn.Sequential], nn.Sequential], **options: object) -> Iterator[None]:
    """Change every network after it is built, or build it with other options."""
    build = convnet.build

    def changed(*arguments: object) -> nn.Module:
        return change(build(*arguments, **options))

    with patch.object(Material, "build", staticmethod(changed)):
        yield


def activation_first(model: nn.Sequential) -> nn.Sequential:
    """Swap each pooling with the activation that follows it."""
    names = list(dict(model.named_children()))
    for name in names:
        if name.startswith("pool"):
            activation = name.replace("pool", "activation")
            pooling, after = model.get_submodule(name), model.get_submodule(activation)
            model.set_submodule(name, after)
            model.set_submodule(activation, pooling)
    return model


@contextlib.contextmanager
def pytorch_convolutions() -> Iterator[None]:
    """Leave every convolution to PyTorch, with weights in the memory formats that suit it."""
    with (
        pytorch_only(),
        patch.object(Conv2d, "__init__", nn.Conv2d.__init__),
        patch.object(ConvTranspose2d, "__init__", nn.ConvTranspose2d.__init__),
        built_otherwise(lambda model: model.to(memory_format=torch.channels_last)),
    ):
        yield


@contextlib.contextmanager
def noise_for_each_image() -> Iterator[None]:
    """Draw separate output noise for each image at test, instead of one sample of the weights for all."""
    predicting = layers.predicting

    def noisy(model: nn.Module, noise: Noise) -> contextlib.AbstractContextManager:
        return predicting(model, Noise.OUTPUTS if noise is Noise.WEIGHTS else noise)

    with patch.object(layers, "predicting", noisy):
        yield


@contextlib.contextmanager
def transformed_images() -> Iterator[None]:
    """Convert each image of a minibatch from bytes, by an image object and a transform."""
    minibatch = loop._minibatch

    def transformed(data: tuple[Tensor, ...], *arguments: object) -> tuple[Tensor, ...]:
        images, labels = minibatch(data, *arguments)
        each = baseline.Images((images * 255).round().byte(), labels)
        return torch.stack([each[index][0] for index in range(len(each))]).to(images.device), labels

    with patch.object(loop, "_minibatch", transformed):
        yield


def contiguous() -> contextlib.AbstractContextManager:
    """Pass images to PyTorch's convolutions and pooling in its default memory format."""
    return patch.object(torch, "channels_last", torch.contiguous_format)


def places_of_maxima() -> contextlib.AbstractContextManager:
    """Compute the indices of the maxima in pooling even if no gradient needs them."""

    def forward(self: MaxPool2d, x: Tensor) -> Tensor:
        return nn.MaxPool2d.forward(self, x.to(memory_format=torch.channels_last))

    return patch.object(MaxPool2d, "forward", forward)


ABLATIONS = (
    Ablation("images as tensors in memory", ("source",), transformed_images),
    Ablation("channels-last, where PyTorch convolves or pools", (*STEPS, "evaluation"), contiguous),
    Ablation(
        "noise in the order of memory",
        ("step",),
        lambda: patch.object(bayesian_layer, "noise_like", torch.randn_like),
    ),
    Ablation(
        "pooling before the activation", (*STEPS, "evaluation"), lambda: built_otherwise(activation_first)
    ),
    Ablation(
        "only the pixels that reach the end",
        (*STEPS, "evaluation"),
        lambda: built_otherwise(lambda m: m, crop=False),
    ),
    Ablation(
        "convolutions in fewer products",
        (*STEPS, "subset", "vae7", "vae5", "evaluation"),
        pytorch_convolutions,
    ),
    Ablation("fused Adam", ("source", "vae7", "vae5", "step"), plain_adam),
    Ablation("pooling without places, where nobody asks for gradients", ("evaluation",), places_of_maxima),
    Ablation("weights sampled once for all images", ("evaluation",), noise_for_each_image),
)


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each workload (default: 5)")
    parser.add_argument(
        "--only", nargs="+", choices=WORKLOADS, metavar="NAME", help=f"of {', '.join(WORKLOADS)}"
    )
    arguments = parser.parse_args(words)
    try:
        material, header = prepare(arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(
        "\n".join(header),
        "",
        row(["optimisation", "workload", "times"]),
        row(["---"] * 3),
        sep="\n",
        flush=True,
    )
    wanted = arguments.only or tuple(WORKLOADS)
    for workload in wanted:
        found = gain_of_memory(workload, material.options, arguments.repeats)
        print(row(["freed memory kept", WORKLOADS[workload].title, spread(found)]), flush=True)
    for ablation in ABLATIONS:
        for workload in (workload for workload in ablation.workloads if workload in wanted):
            found = gain(workload, material, material, ablation.away, arguments.repeats)
            print(row([ablation.title, WORKLOADS[workload].title, spread(found)]), flush=True)
    if choose_precision(material.precision, material.device) == torch.bfloat16:
        exact = Material(replace(material.options, precision="float32"))
        for workload in wanted:
            found = gain(workload, material, exact, contextlib.nullcontext, arguments.repeats)
            print(row(["bfloat16", WORKLOADS[workload].title, spread(found)]), flush=True)


def gain(workload: str, material: Material, other: Material, away: Away, repeats: int) -> dict[str, float]:
    """Return the ratio of a workload's time without an optimisation, on the other material, to its time."""
    call, _ = WORKLOADS[workload].ours(material)
    with away():
        slow, _ = WORKLOADS[workload].ours(other)

    def without() -> None:
        with away():
            slow()

    calls = [functools.partial(seconds, each, material.device) for each in (call, without)]
    return ratios(*in_turns(calls, repeats))


def gain_of_memory(workload: str, options: Options, repeats: int) -> dict[str, float]:
    """Return the ratio of a workload's time in a process that returns freed memory to its time."""
    with (
        Side(workload, "ours", options) as ours,
        Side(workload, "ours", replace(options, keep_memory=False)) as theirs,
    ):
        return ratios(*in_turns((ours.seconds, theirs.seconds), repeats))


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return median, smallest and largest of the ratios over turns."""
    return asdict(Spread.of([there / here for here, there in zip(ours, theirs, strict=True)]))


if __name__ == "__main__":
    with_memory_kept(main)
