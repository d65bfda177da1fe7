"""Bayesian layers: conversion of a model, its KL divergence, and its predictions."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dwp.bayes import posteriors, settings
from dwp.bayes.bayesian_layer import BayesConv, BayesConv2d, BayesConvTranspose, BayesianLayer, BayesLinear
from dwp.bayes.matching import Match, match_layers
from dwp.bayes.posteriors import ALL
from dwp.bayes.prior_choice import Default, Priors, Weighted, computes_else, title
from dwp.bayes.scales import Choice as ScaleChoice
from dwp.bayes.scales import Scales
from dwp.errors import InputError, unknown
from dwp.nn.noise import Noise, evaluating, fixed_weight_sample, noise_of, set_noise
from dwp.nn.seeding import derived_seed, seeded
from dwp.priors.base import KLEstimator, Prior

__all__ = [
    "BayesConv",
    "BayesConv2d",
    "BayesConvTranspose",
    "BayesLinear",
    "BayesianLayer",
    "Noise",
    "bayesian_layers",
    "kl",
    "make_bayesian",
    "predict",
    "priors",
    "set_noise",
]


Option = TypeVar("Option")

# The first that a layer is an instance of.
_BAYESIAN: dict[type[Weighted], type[BayesianLayer]] = {
    nn.Linear: BayesLinear,
    nn.Conv2d: BayesConv2d,
    _ConvTransposeNd: BayesConvTranspose,
    _ConvNd: BayesConv,
}


def make_bayesian(
    model: nn.Module,
    priors: Priors,
    form: str = "additive",
    *,
    default: Default = None,
    scales: ScaleChoice | Mapping[str, ScaleChoice] = None,
    largest_variance: float | Mapping[str, float] | None = None,
) -> nn.Module:
    """Replace convolutions and linear layers of a model, in place, by Bayesian ones.

    Their posteriors start from their weights. The model keeps a frozen copy of each prior, see `priors`. A
    layer that is used in several places is replaced by one Bayesian layer.

    Args:
        model: any module with convolutions (of one, two or three dimensions, transposed ones too) or linear
            layers; other layers stay as they are.
        priors: a prior, one prior per kernel size, or a mapping from kernel sizes or layer names to
            priors. Layer names take precedence; None leaves layers unchanged. A linear layer gets a prior
            by its name only.
        form: name of the posterior's form, see `dwp.bayes.posteriors`.
        default: the prior of every convolution and linear layer that `priors` does not match, see
            `prior_choice.Default`; None leaves them unchanged.
        scales: kind of the multiplicative scales of each Bayesian layer, see `dwp.bayes.scales`; or a mapping
            from layer names to kinds, other layers have none.
        largest_variance: upper bound of the posterior variances (additive form); or a mapping from layer
            names to bounds, other layers have none.

    Returns:
        The model, or the Bayesian layer if the model is a convolution or linear layer itself. Its attribute
        `prior_report` is a table of all layers, with their priors or why they have none.

    Raises:
        InputError: a name matches no layer or one that computes something else than its class (a subclass
            that overrides `forward`), no layer has a prior, a layer cannot be replaced without loss (see
            `matching.match_layers`; hooks), or a prior is incompatible with the form; the model is then
            unchanged. Also if `scales` or `largest_variance` name a layer that is not made Bayesian.
    """
    settings.find(form)
    matches, report = match_layers(model, priors, ("weight", "bias"), default, computes_else)
    own: dict[Prior, Prior] = {}
    kinds = _by_layer("scales", scales, matches)
    limits = _by_layer("largest_variance", largest_variance, matches)
    layers: list[tuple[list[str], BayesianLayer]] = []
    for one, kind, limit in zip(matches, kinds, limits, strict=True):
        _check_hooks(one.names[0], one.layer)
        if one.prior not in own:
            own[one.prior] = posteriors.own(one.prior, one.layer.weight)
        bayesian = next(of for cls, of in _BAYESIAN.items() if isinstance(one.layer, cls))
        layers.append((one.names, bayesian(one.layer, own[one.prior], form, kind, limit)))
    result = model
    for names, layer in layers:
        for name in names:
            if name:
                model.set_submodule(name, layer)
            else:
                result = layer
    with torch.no_grad():
        means = {names[0]: layer.draw(sampled=False) for names, layer in layers}
    # Not a tensor, so it is in no state dict; it is part of copies and pickles.
    result.__dict__["prior_report"] = report.afterwards(means)
    return result


def _by_layer(what: str, option: Option | Mapping[str, Option], matches: list[Match]) -> list[Option | None]:
    """Return the option of each layer: the same for all, or by its name."""
    if not isinstance(option, Mapping):
        return [option for _ in matches]
    names = {name for one in matches for name in one.names}
    for name in option:
        if name not in names:
            raise unknown(f"{what}: Bayesian layer", name, sorted(names))
    return [next((option[name] for name in one.names if name in option), None) for one in matches]


def _check_hooks(name: str, layer: Weighted) -> None:
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    if any(getattr(layer, f"_{kind}") for kind in kinds):
        raise InputError(
            f"{title(name)}: it has hooks, which a Bayesian layer would lose; remove them, and register "
            "them anew on what replaces it"
        )


def bayesian_layers(model: nn.Module) -> list[BayesianLayer]:
    """Return the Bayesian layers of a model."""
    return [module for module in model.modules() if isinstance(module, BayesianLayer)]


def priors(model: nn.Module) -> list[Prior]:
    """Return the priors of a Bayesian model, each once, in the order of its layers.

    They are frozen copies and are not among the parameters, the submodules or the state dict of the model.
    They move with it to another device but not to another dtype, and are part of its copies and pickles.
    """
    return list(dict.fromkeys(layer.posterior.prior for layer in bayesian_layers(model)))


def reverse_models(model: nn.Module) -> list[nn.Module]:
    """Return the reverse models of a Bayesian model's priors and make them trainable; p(w) stays frozen."""
    models = [prior.reverse_model() for prior in priors(model)]
    return [one.requires_grad_(True) for one in models if one is not None]


def kl(model: nn.Module, estimator: KLEstimator = ALL) -> Tensor:
    """Return the KL divergence of all Bayesian layers and scales from their priors, in nats, summed.

    It is computed in the dtype of each prior, or of the layer if the prior has no tensors, and in
    float32 at least.

    Args:
        model: a Bayesian model.
        estimator: how to estimate the KL of each layer where it has no closed form.

    Raises:
        InputError: the model has no Bayesian layers.
    """
    layers = bayesian_layers(model)
    if not layers:
        raise InputError(
            f"kl: a {type(model).__name__} without Bayesian layers; convert it by make_bayesian first"
        )
    first, *others = (layer.kl(estimator) for layer in layers)
    # Scales that several layers share, such as those of gates, belong to none of them.
    owned = {layer.scales for layer in layers}
    shared = (one for one in model.modules() if isinstance(one, Scales) and one not in owned)
    return sum([*others, *(one.kl() for one in shared)], first)


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, samples: int, generator_seed: int = 0, chunk: int = 250
) -> Tensor:
    """Return class probabilities of an ensemble of samples of the weights, or of dropout masks.

    Args:
        model: maps images [n, c, h, w] to logits; the noise mode and training mode of every module are
            restored, also after an error.
        images: [n, c, h, w].
        samples: members of the ensemble; 0 predicts with the posterior mean.
        generator_seed: seed of the noise; member i does not depend on the number of images.
        chunk: images per forward pass.

    Returns:
        Probabilities [members, n, classes] in float64; the mean over members is the prediction.
    """
    members = []
    with predicting(model, Noise.WEIGHTS if samples else Noise.NONE):
        for member in range(max(samples, 1)):
            # One sample of the weights serves all images.
            with seeded(derived_seed(generator_seed, member), images.device), fixed_weight_sample(model):
                logits = torch.cat([model(part) for part in images.split(chunk)])
            # In double precision, for probabilities too small for float32; MPS does not support it.
            wide = logits.cpu() if logits.device.type == "mps" else logits
            members.append(wide.double().softmax(1))
    return torch.stack(members)


@contextlib.contextmanager
def predicting(model: nn.Module, noise: Noise) -> Iterator[None]:
    """Set the noise of all stochastic layers and evaluation mode; both are restored afterwards."""
    with noise_of(model, noise), evaluating(model):
        yield
