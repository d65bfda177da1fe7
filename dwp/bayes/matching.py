"""Matching of a model's layers with priors, for initialisation and conversion."""

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from dwp.bayes.posteriors import Posterior
from dwp.errors import InputError, unknown
from dwp.priors.base import Prior
from dwp.priors.standard_normal import StandardNormal

Priors = Prior | Iterable[Prior] | Mapping[int | str, Prior | None]
"""One prior, one for each kernel size, or priors by kernel size or layer name; the name takes precedence.
None leaves layers as they are."""

Weighted = _ConvNd | nn.Linear
"""A layer that a prior can be for: a convolution of any kind, or a linear layer."""

Default = str | Prior | Callable[[Weighted], Prior | None] | None
"""The prior of layers that no other prior matches: 'standard_normal' (N(0, 1 / fan-in) for each weight), a
prior over 1×1 kernels, a function from the layer to its prior or None, or None: they stay as they are."""

Layer = TypeVar("Layer", bound=Weighted)

# Attributes of layers with a parameter that is computed from others, and the functions that undo this.
_UNDONE_BY = {
    "parametrizations": "parametrize.remove_parametrizations",
    "{}_mask": "prune.remove",
    "{}_g": "remove_weight_norm",
    "{}_u": "remove_spectral_norm",
}


@dataclass(frozen=True)
class Match(Generic[Layer]):
    """A layer, all its names in the model (several if it is used in several places), and its prior."""

    names: list[str]
    layer: Layer
    prior: Prior


def match_layers(
    model: nn.Module,
    priors: Priors,
    kinds: tuple[type[Layer], ...],
    parameters: tuple[str, ...] = ("weight",),
    default: Default = None,
) -> list[Match[Layer]]:
    """Return the layers of a model that get a prior, in model order. Layers inside priors are skipped.

    A prior over k×k kernels is for two-dimensional convolutions of this size. A prior over 1×1 kernels is
    a distribution of single weights: by name or as the default, it is for layers of any shape.

    Args:
        model: any module.
        priors: see `Priors`. A kernel size is that of convolutions, never of linear layers.
        kinds: layer classes to match.
        parameters: names of the parameters that the caller will change.
        default: see `Default`.

    Raises:
        InputError: a name matches no layer, a layer has two priors, a prior has another kernel size than
            its layer, no layer has a prior, the model is Bayesian, or a parameter is computed from others,
            has no shape yet, or is shared with another layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Posterior):
            where = title(name.rpartition(".")[0])
            raise InputError(f"{where} is Bayesian already; initialise a model, then convert it, once")
    by_key, make = _by_key(priors), _maker(default)
    layers: dict[Layer, list[str]] = {}
    for name, layer in _places(model, kinds):
        layers.setdefault(layer, []).append(name)
    _check_names(by_key, [name for names in layers.values() for name in names])
    owners = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            owners[id(parameter)].append(name)
    matches = []
    for layer, names in layers.items():
        key = _key(names, layer, by_key)
        if (default if key is None else by_key[key]) is None:
            continue
        for parameter in parameters:
            _check_parameter(names, layer, parameter, owners)
        prior = make(layer) if key is None else by_key[key]
        if prior is not None:
            _check_prior(f"default of {title(names[0])}", prior)
            _check_size(names[0], layer, prior)
            matches.append(Match(names, layer, prior))
    if not matches:
        raise _nothing(model, layers, by_key)
    return matches


def fan_in(layer: Weighted) -> int:
    """Return the number of weights that one output of a layer sums over, for a stride of 1."""
    outputs, inputs, *size = layer.weight.shape
    if isinstance(layer, _ConvTransposeNd):
        inputs = outputs // layer.groups
    return inputs * math.prod(size)


def title(name: str) -> str:
    """Return the name of a layer for error messages; the empty name is the whole model."""
    return f"layer {name}" if name else "the model itself"


def _by_key(priors: Priors) -> dict[int | str, Prior | None]:
    if isinstance(priors, Mapping):
        for key, prior in priors.items():
            if not isinstance(key, int | str):
                raise InputError(
                    f"priors[{key!r}]: a key is a {type(key).__name__}; use a kernel size (a whole number) "
                    "or the name of a layer"
                )
            if prior is not None:
                _check_prior(f"priors[{key!r}]", prior)
        return dict(priors)
    if isinstance(priors, Prior):
        priors = [priors]
    elif isinstance(priors, str) or not isinstance(priors, Iterable):
        _check_prior("priors", priors)
    by_size: dict[int | str, Prior | None] = {}
    for prior in priors:
        _check_prior("priors", prior)
        if prior.kernel_size in by_size:
            raise InputError(f"priors: two priors over {_square(prior.kernel_size)} kernels; give one")
        by_size[prior.kernel_size] = prior
    return by_size


def _check_prior(where: str, prior: object) -> None:
    if not isinstance(prior, Prior):
        raise InputError(
            f"{where}: a {type(prior).__name__} is not a prior; give a dwp.Prior, from dwp.load_prior say"
        )


def _places(module: nn.Module, kinds: tuple[type[Layer], ...], name: str = "") -> Iterator[tuple[str, Layer]]:
    if isinstance(module, kinds):
        yield name, module
    elif not isinstance(module, Prior):
        # `named_children` would skip the second place of a module.
        for key, child in module._modules.items():
            if child is not None:
                yield from _places(child, kinds, f"{name}.{key}" if name else key)


def _maker(default: Default) -> Callable[[Weighted], Prior | None]:
    """Return the function from a layer to its default prior, or None."""
    if isinstance(default, str):
        if default != StandardNormal.kind:
            raise unknown("default", default, [StandardNormal.kind])
        return lambda layer: StandardNormal(1, scale=fan_in(layer) ** -0.5)
    if default is None or isinstance(default, Prior):
        return lambda layer: default
    if isinstance(default, type) or not callable(default):
        _check_prior("default", default)
    return default


def _check_names(by_key: Mapping[int | str, Prior | None], names: list[str]) -> None:
    for key in by_key:
        if isinstance(key, str) and key not in names:
            nearest = difflib.get_close_matches(key, names, 1, cutoff=0)
            raise InputError(
                f"priors[{key!r}]: the model has no convolution or linear layer of this name; "
                + (f"the nearest is {nearest[0]!r}" if nearest else "it has none at all")
            )


def _key(names: list[str], layer: Weighted, by_key: Mapping[int | str, Prior | None]) -> int | str | None:
    """Return the key of a layer among the priors: its name, or its kernel size; None if there is neither."""
    own = [name for name in names if name in by_key]
    for name in own[1:]:
        if by_key[name] is not by_key[own[0]]:
            raise InputError(f"priors: {own[0]} and {name} are one layer; give it one prior")
    if own:
        return own[0]
    size = _kernel(layer)
    return next((key for key in by_key if not isinstance(key, str) and size == (key, key)), None)


def _check_size(name: str, layer: Weighted, prior: Prior) -> None:
    size = prior.kernel_size
    if size == 1 or _kernel(layer) == (size, size):
        return
    if isinstance(layer, nn.Linear):
        raise InputError(
            f"{title(name)}: it is linear and has no kernels, its prior is over {_square(size)}; "
            "give one over single weights, 1×1"
        )
    raise InputError(
        f"{title(name)}: its kernels are {_times(_kernel(layer))}, its prior is over {_square(size)}; "
        "give one over kernels of its size"
    )


def _nothing(
    model: nn.Module, layers: Iterable[Weighted], by_key: Mapping[int | str, Prior | None]
) -> InputError:
    """Return the error for a model no layer of which has a prior."""
    there = sorted({_kernel(layer) for layer in layers if len(_kernel(layer)) == 2})
    wanted = [key for key, prior in by_key.items() if not isinstance(key, str) and prior is not None]
    missing = [key for key in wanted if (key, key) not in there]
    if not there:
        return InputError(
            "model: priors by kernel size are for the convolutions of a model; it has none "
            f"(a {type(model).__name__})"
        )
    if missing:
        return InputError(
            f"priors: the model has no {_square(missing[0])} convolution for this prior; "
            f"it has {', '.join(map(_times, there))}"
        )
    return InputError("priors: no layer of the model has one; there is nothing left to do")


def _kernel(layer: Weighted) -> tuple[int, ...]:
    return () if isinstance(layer, nn.Linear) else layer.kernel_size


def _check_parameter(names: list[str], layer: Weighted, name: str, owners: Mapping[int, list[str]]) -> None:
    where = title(names[0])
    if name not in layer._parameters:
        for trace, undone_by in _UNDONE_BY.items():
            if hasattr(layer, trace.format(name)):
                raise InputError(
                    f"{where}: its {name} is computed from other tensors; "
                    f"call torch.nn.utils.{undone_by} on it first"
                )
        raise InputError(f"{where}: its {name} is no parameter of its own; make it one first")
    parameter = layer._parameters[name]
    if parameter is None:
        return
    if is_lazy(parameter):
        raise InputError(f"{where}: its {name} has no shape yet; run a batch through the model first")
    others = [other for other in owners[id(parameter)] if other not in names]
    if others:
        raise InputError(
            f"{where}: its {name} is also that of {title(others[0])}; give each its own, or leave one out"
        )


def _square(size: int) -> str:
    return _times((size, size))


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))
