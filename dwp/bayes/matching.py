"""Matching of a model's layers with priors, for initialisation and conversion."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dwp.bayes.layer_report import LayerReport, Report, scale
from dwp.bayes.posteriors import Posterior
from dwp.bayes.prior_choice import Default, PriorChoice, Priors, Weighted, kernel, times, title
from dwp.errors import InputError
from dwp.priors.base import Prior

# Attributes of layers with a parameter that is computed from others, and the functions that undo this.
_UNDONE_BY = {
    "parametrizations": "parametrize.remove_parametrizations",
    "{}_mask": "prune.remove",
    "{}_g": "remove_weight_norm",
    "{}_u": "remove_spectral_norm",
}


@dataclass(frozen=True)
class Match:
    """A layer, all its names in the model (several if it is used in several places), and its prior."""

    names: list[str]
    layer: Weighted
    prior: Prior


def match_layers(
    model: nn.Module,
    priors: Priors,
    parameters: tuple[str, ...] = ("weight",),
    default: Default = None,
    unfit: Callable[[Weighted], str] = lambda layer: "",
) -> tuple[list[Match], Report]:
    """Return the convolutions and linear layers of a model that get a prior, in model order, and a report.

    Layers inside priors are skipped.

    Args:
        model: any module.
        priors: see `PriorChoice`.
        parameters: names of the parameters that the caller will change.
        default: see `PriorChoice`.
        unfit: returns why a layer cannot have a prior, or an empty string. It then has none, unless one is
            given by its name, which is an error.

    Raises:
        InputError: a name matches no layer or an unfit one, a layer has two priors, a prior has another
            kernel size than its layer, no layer has a prior, the model is Bayesian, or a parameter is
            computed from others, has no shape yet, or is shared with another layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Posterior):
            where = title(name.rpartition(".")[0])
            raise InputError(f"{where} is Bayesian already; initialise a model, then convert it, once")
    choice = PriorChoice(priors, default)
    modules: dict[nn.Module, list[str]] = {}
    for name, module in _places(model):
        modules.setdefault(module, []).append(name)
    layers = {module: names for module, names in modules.items() if isinstance(module, Weighted)}
    choice.check_names([name for names in layers.values() for name in names])
    owners = _owners(model)
    matches: list[Match] = []
    rows: list[LayerReport] = []
    for module, names in modules.items():
        if not isinstance(module, Weighted):
            rows += _rows_of_others(names[0], module)
            continue
        key, prior = choice.key(names, module), None
        reason = choice.missing(key, module) or unfit(module)
        if not reason:
            for parameter in parameters:
                _check_parameter(names, module, parameter, owners)
            prior = choice.prior(key, names[0], module)
            reason = "" if prior else "its default is None"
        elif isinstance(key, str) and choice.by_key[key]:
            raise InputError(f"{title(key)}: {reason}; leave it as it is, by {{{key!r}: None}}")
        if prior is not None:
            matches.append(Match(names, module, prior))
        rows.append(_row(names[0], module, module.weight, prior, reason))
    if not matches:
        raise _nothing(model, layers, choice)
    return matches, Report(tuple(rows), choice.unused())


def _places(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield every name and module of a model but those inside layers and priors."""
    if isinstance(module, Prior):
        return
    yield name, module
    if not isinstance(module, Weighted):
        # `named_children` would skip the second place of a module.
        for key, child in module._modules.items():
            if child is not None:
                yield from _places(child, f"{name}.{key}" if name else key)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of the modules that have each parameter, by its id."""
    owners = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            owners[id(parameter)].append(name)
    return owners


def _rows_of_others(name: str, module: nn.Module) -> Iterator[LayerReport]:
    """Yield the row of each weight matrix of a module that is neither a convolution nor a linear layer."""
    for key, parameter in module._parameters.items():
        if parameter is not None and not is_lazy(parameter) and sum(size > 1 for size in parameter.shape) > 1:
            reason = "neither a convolution nor a linear layer"
            yield _row(f"{name}.{key}" if name else key, module, parameter, None, reason)


def _row(name: str, module: nn.Module, weight: Tensor, prior: Prior | None, reason: str) -> LayerReport:
    shape = () if is_lazy(weight) else tuple(weight.shape)
    kind = f"{prior.kind} {times([prior.kernel_size] * 2)}" if prior else ""
    return LayerReport(name, type(module).__name__, shape, kind, reason, scale(weight), scale(weight))


def _nothing(model: nn.Module, layers: Iterable[Weighted], choice: PriorChoice) -> InputError:
    """Return the error for a model no layer of which has a prior."""
    there = sorted({kernel(layer) for layer in layers if len(kernel(layer)) == 2})
    if not there:
        return InputError(
            "model: priors by kernel size are for the convolutions of a model; it has none "
            f"(a {type(model).__name__})"
        )
    for size in choice.unused():
        return InputError(
            f"priors: the model has no {times([size] * 2)} convolution for this prior; "
            f"it has {', '.join(map(times, there))}"
        )
    return InputError("priors: no layer of the model has one; there is nothing left to do")


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
