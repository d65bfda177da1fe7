"""Matching of a model's convolutions with priors, for initialisation and conversion."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from dwp.bayes.posteriors import Posterior
from dwp.errors import InputError
from dwp.priors.base import Prior

Priors = Prior | Iterable[Prior] | Mapping[int | str, Prior | None]
"""One prior, one for each kernel size, or priors by kernel size or layer name; the name takes precedence.
None leaves layers as they are."""

Layer = TypeVar("Layer", bound=_ConvNd)

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
    *,
    every: bool = False,
) -> list[Match[Layer]]:
    """Return the layers of a model that get a prior, in model order. Layers inside priors are skipped.

    Args:
        model: any module.
        priors: see `Priors`.
        kinds: layer classes to match.
        parameters: names of the parameters that the caller will change.
        every: refuse layers without a prior, unless it is None; otherwise skip them.

    Raises:
        InputError: a key or prior matches no layer, a layer has two priors or (with `every`) none,
            a prior has another kernel size than its layer, no layer is left, the model is Bayesian,
            or a parameter is computed from others, has no shape yet, or is shared with another layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Posterior):
            where = title(name.rpartition(".")[0])
            raise InputError(f"{where} is Bayesian already; initialise a model, then convert it, once")
    by_key = _by_key(priors)
    layers: dict[Layer, list[str]] = {}
    for name, layer in _places(model, kinds):
        layers.setdefault(layer, []).append(name)
    if not layers:
        raise InputError(
            f"model: priors are for the convolutions of a model; it has none (a {type(model).__name__})"
        )
    _check_names(by_key, [name for names in layers.values() for name in names])
    chosen = [(names, layer, _choose(names, layer, by_key, every)) for layer, names in layers.items()]
    _check_sizes(by_key, layers)
    matches = [Match(names, layer, prior) for names, layer, prior in chosen if prior is not None]
    if not matches:
        raise InputError("priors: no convolution of the model has one; there is nothing left to do")
    owners = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            owners[id(parameter)].append(name)
    for one in matches:
        for parameter in parameters:
            _check_parameter(one, parameter, owners)
    return matches


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


def _check_names(by_key: Mapping[int | str, Prior | None], names: list[str]) -> None:
    for key in by_key:
        if isinstance(key, str) and key not in names:
            (nearest,) = difflib.get_close_matches(key, names, 1, cutoff=0)
            raise InputError(
                f"priors[{key!r}]: the model has no convolution of this name; the nearest is {nearest!r}"
            )


def _choose(
    names: list[str], layer: _ConvNd, by_key: Mapping[int | str, Prior | None], every: bool
) -> Prior | None:
    own: list[int | str] = [name for name in names if name in by_key]
    for name in own[1:]:
        if by_key[name] is not by_key[own[0]]:
            raise InputError(f"priors: {own[0]} and {name} are one layer; give it one prior")
    height, width = layer.kernel_size
    keys = own or [size for size in by_key if size == height == width]
    if not keys and every:
        sizes = sorted({prior.kernel_size for prior in by_key.values() if prior is not None})
        raise InputError(
            f"{title(names[0])}: there is no prior over {height}×{width} kernels; there are priors for "
            f"{', '.join(map(_square, sizes)) or 'no size'}; None leaves a layer as it is"
        )
    prior = by_key[keys[0]] if keys else None
    if prior is not None and not prior.kernel_size == height == width:
        raise InputError(
            f"{title(names[0])}: its kernels are {height}×{width}, its prior is over "
            f"{_square(prior.kernel_size)}; give one over kernels of its size"
        )
    return prior


def _check_sizes(by_key: Mapping[int | str, Prior | None], layers: Iterable[_ConvNd]) -> None:
    sizes = sorted({layer.kernel_size for layer in layers})
    for size in by_key:
        if not isinstance(size, str) and (size, size) not in sizes:
            there = ", ".join(f"{height}×{width}" for height, width in sizes)
            raise InputError(
                f"priors: the model has no {_square(size)} convolution for this prior; it has {there}"
            )


def _check_parameter(one: Match, name: str, owners: Mapping[int, list[str]]) -> None:
    layer, where = one.layer, title(one.names[0])
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
    others = [other for other in owners[id(parameter)] if other not in one.names]
    if others:
        raise InputError(
            f"{where}: its {name} is also that of {title(others[0])}; give each its own, or leave one out"
        )


def _square(size: int) -> str:
    return f"{size}×{size}"
