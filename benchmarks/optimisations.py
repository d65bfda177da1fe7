"""The optimisations of the library that can be disabled, and how: by the published recipe's method."""

import contextlib
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks import recipe, workloads
from dwp.bayes import layers
from dwp.errors import unknown
from dwp.nn.conv import MaxPool2d, implementation
from dwp.nn.noise import Noise
from dwp.training import loop

MEMORY_KEPT, FAST_FORMS = "freed memory kept", "fast convolution forms"
Context = contextlib.AbstractContextManager


def built(change: Callable[[nn.Sequential], nn.Sequential], **options: object) -> Context:
    """Change every network after it is built, or build it with other options."""
    build = workloads.build
    return patch.object(workloads, "build", lambda *arguments: change(build(*arguments, **options)))


def activation_first(model: nn.Sequential) -> nn.Sequential:
    """Swap each pooling with the activation that follows it."""
    for name, module in list(model.named_children()):
        if name.startswith("pool"):
            activation = name.replace("pool", "activation")
            model.set_submodule(name, model.get_submodule(activation))
            model.set_submodule(activation, module)
    return model


def laid_out(name: str, form: torch.memory_format) -> Context:
    """Change the memory format of the weights that a function of `workloads` returns, not their values."""
    function = getattr(workloads, name)

    def changed(*arguments: object, **options: object) -> nn.Module:
        model = function(*arguments, **options)
        for weight in (parameter for parameter in model.parameters() if parameter.ndim == 4):
            weight.data = weight.data.contiguous(memory_format=form)
        return model

    return patch.object(workloads, name, changed)


@contextlib.contextmanager
def pytorch_convolutions() -> Iterator[None]:
    """Leave every convolution to PyTorch, with weights in the memory formats that suit it."""
    with (
        implementation("pytorch"),
        laid_out("build_initialised", torch.channels_last),
        laid_out("vae", torch.contiguous_format),
        laid_out("load_prior", torch.contiguous_format),
    ):
        yield


def transformed_images() -> Context:
    """Convert each image of a minibatch from bytes, by an image object and a transform."""
    minibatch = loop._minibatch

    def transformed(data: tuple[Tensor, ...], *arguments: object) -> tuple[Tensor, ...]:
        images, labels = minibatch(data, *arguments)
        each = recipe.Images((images * 255).round().byte(), labels)
        return torch.stack([each[index][0] for index in range(len(each))]).to(images.device), labels

    return patch.object(loop, "_minibatch", transformed)


def default_adam() -> Context:
    """Use PyTorch's default implementation of Adam."""
    adam = torch.optim.Adam
    return patch("torch.optim.Adam", lambda parameters, lr, fused: adam(parameters, lr=lr))


def pooling_with_indices() -> Context:
    """Compute the indices of the maxima in pooling even if no gradient needs them."""

    def forward(self: MaxPool2d, x: Tensor) -> Tensor:
        return nn.MaxPool2d.forward(self, x.to(memory_format=torch.channels_last))

    return patch.object(MaxPool2d, "forward", forward)


def noise_for_each_image() -> Context:
    """Draw separate output noise for each image at test, instead of one sample of the weights for all."""
    predicting = layers.predicting

    def noisy(model: nn.Module, noise: Noise) -> Context:
        return predicting(model, Noise.OUTPUTS if noise is Noise.WEIGHTS else noise)

    return patch.object(layers, "predicting", noisy)


NETWORKS = ("source", "step", "evaluation")
# The context that disables it, and the workloads that it affects; a process starts with memory kept or not.
OPTIMISATIONS: dict[str, tuple[Callable[[], Context], tuple[str, ...]]] = {
    "nothing": (contextlib.nullcontext, ()),
    MEMORY_KEPT: (contextlib.nullcontext, tuple(workloads.WORKLOADS)),
    FAST_FORMS: (pytorch_convolutions, tuple(workloads.WORKLOADS)),
    "cropping unused pixels": (lambda: built(lambda model: model, crop=False), NETWORKS),
    "pooling before the activation": (lambda: built(activation_first), NETWORKS),
    "channels-last": (lambda: patch("torch.channels_last", torch.contiguous_format), NETWORKS),
    "images as tensors in memory": (transformed_images, ("source",)),
    "noise in memory order": (
        lambda: patch("dwp.bayes.bayesian_layer.noise_like", torch.randn_like),
        ("step",),
    ),
    "fused Adam": (default_adam, ("source", "vae7", "vae5", "step")),
    "pooling without indices": (pooling_with_indices, ("evaluation",)),
    "one weight sample for all images": (noise_for_each_image, ("evaluation",)),
}


def disabled(title: str) -> Context:
    """Return a context in which an optimisation is disabled."""
    if title not in OPTIMISATIONS:
        raise unknown("without", title, list(OPTIMISATIONS))
    return OPTIMISATIONS[title][0]()
