"""The classifier of a few-shot network, fitted to the features of its kernels."""

import torch
from torch import Tensor, nn

from dwp.bayes import last_layer
from dwp.experiments._augmentation import Examples
from dwp.nn.noise import evaluating


def of(model: nn.Module) -> nn.Linear:
    """Return the classifier of a network."""
    layer = model.get_submodule("classifier")
    assert isinstance(layer, nn.Linear)
    return layer


def fitted(
    model: nn.Module,
    examples: Examples,
    parameters: dict[str, Tensor] | None = None,
    scale: float | None = None,
) -> last_layer.LastLayer:
    """Return the classifier that `last_layer.fit` fits to the features of a network.

    Args:
        model: the network.
        examples: the training images.
        parameters: parameters of the network in place of its own.
        scale: see `last_layer.fit`.
    """
    classifier = of(model)
    features: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with evaluating(model), torch.no_grad():
        torch.func.functional_call(model, parameters or {}, (examples.images,))
    hook.remove()
    return last_layer.fit(
        features[0], examples.labels, classifier.out_features, scale, versions=examples.versions
    )


def fit_(model: nn.Module, examples: Examples) -> last_layer.LastLayer:
    """Fit the classifier of a network in place; return it."""
    found = fitted(model, examples)
    with torch.no_grad():
        of(model).weight.copy_(found.weight)
        of(model).bias.copy_(found.bias)
    return found


def refitted(
    model: nn.Module, examples: Examples, scale: float, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Replace the sampled classifier by the most probable one for the sampled kernels.

    Its posterior is much wider than that of the kernels' features, so that a mean over few samples of it is
    noisy.
    """
    found = fitted(model, examples, parameters, scale)
    return {**parameters, "classifier.weight": found.weight, "classifier.bias": found.bias}
