"""What the choices of a method mean: the prior, and the start, of each convolution of a network.

A choice is one name for all convolutions, or a mapping from a layer (`conv2`) or a
kernel size (`5x5`) to a name; a layer's own key goes first.
"""

from collections.abc import Mapping
from typing import Any

from dwp.bayes import posteriors
from dwp.errors import InputError
from dwp.experiments.base import ExperimentSettings, Method, Names
from dwp.experiments.source_nets import SourceSettings
from dwp.initialisation import RULES
from dwp.nn.spec import Network, size_label
from dwp.priors.base import Prior, find

PRETRAINED = "pretrained"
STARTS = (*RULES, PRETRAINED)


def by_layer(choice: Names, network: Network) -> dict[str, str]:
    """Return the name chosen for each convolution, by layer.

    Raises:
        InputError: a layer has no name, or a key belongs to no layer.
    """
    sizes = network.layer_sizes()
    if isinstance(choice, str):
        return dict.fromkeys(sizes, choice)
    keys = {layer: layer if layer in choice else size_label(size) for layer, size in sizes.items()}
    for layer, key in keys.items():
        if key not in choice:
            raise InputError(f"names {', '.join(choice)}, but neither {layer} nor {key}; add one of them")
    for key in choice:
        if key not in keys.values():
            raise InputError(f"{key}: no convolution needs it; the network has {', '.join(keys)}")
    return {layer: choice[key] for layer, key in keys.items()}


def priors_needed(method: Method, network: Network) -> list[tuple[str, int]]:
    """Return name and kernel size of each prior that a method uses, in its KL or for its start."""
    chosen = [by_layer(method.prior, network)] if method.is_bayesian else []
    chosen.append(by_layer(method.init.origin, network))
    sizes = network.layer_sizes()
    needed = {(name, sizes[layer]): None for names in chosen for layer, name in names.items()}
    return [need for need in needed if need[0] not in STARTS]


def is_pretrained(method: Method) -> bool:
    """Return whether a method starts from a source network."""
    return method.init.origin == PRETRAINED


def check(where: str, method: Method, settings: ExperimentSettings, priors: Mapping[str, Any]) -> None:
    """Refuse choices that do not go together.

    Args:
        where: the method's path in the configuration.
        method: its settings.
        settings: those of its experiment.
        priors: settings of all priors by name, see `dwp.priors.settings`.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    network = settings.network
    sizes = network.layer_sizes()
    form = getattr(method, "posterior", "none")
    prior = getattr(method, "prior", None)
    if method.is_bayesian:
        if prior is None:
            raise InputError(f"{where}.prior: missing; a Bayesian method needs one of {', '.join(priors)}")
        for layer, name in _by_layer(f"{where}.prior", prior, network).items():
            _check_known(f"{where}.prior", name, priors, sizes[layer])
            try:
                posteriors.find(form).check(find(priors[name].kind))
            except InputError as error:
                raise InputError(f"{where}.prior: {name!r} with posterior {form!r}: {error}") from None
            _check_kingma(where, form, priors[name])
    elif prior is not None:
        raise InputError(
            f"{where}.prior: {prior!r} needs a posterior; here it is {form!r}, "
            f"use one of {', '.join(posteriors.FORMS)}"
        )
    for key in ("laplace", "dropout", "l2"):
        if method.is_bayesian and (value := getattr(method, key, None)):
            raise InputError(f"{where}.{key}: {value} goes with posterior none; here it is {form!r}")
    if getattr(method, "laplace", False) and method.dropout:
        raise InputError(f"{where}.laplace: true does not go with dropout, here {method.dropout}")
    for layer, name in _by_layer(f"{where}.init.from", method.init.origin, network).items():
        if name == PRETRAINED:
            _check_pretrained(f"{where}.init.from", method, settings)
        elif name not in RULES:
            starts = STARTS if method.pretrained else RULES
            _check_known(f"{where}.init.from", name, priors, sizes[layer], tuple(starts))
            cls = find(priors[name].kind)
            if cls.sample is Prior.sample:
                raise InputError(
                    f"{where}.init.from: {name!r} ({cls.kind}) cannot be sampled from; use another"
                )


def check_source(where: str, settings: ExperimentSettings, source: SourceSettings) -> None:
    """Refuse a method that starts from source networks which do not fit its experiment.

    Args:
        where: the method's path in the configuration.
        settings: those of its experiment.
        source: settings of the source networks.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    where = f"{where}.init.from"
    mine, theirs = settings.network, source.network
    if (mine.layers, mine.batch_norm) != (theirs.layers, theirs.batch_norm):
        raise InputError(f"{where}: {PRETRAINED!r} needs the network of source.network; this one differs")
    if settings.seeds > source.nets:
        raise InputError(
            f"{where}: {PRETRAINED!r} starts each seed from the source network of that number; there are "
            f"{settings.seeds} seeds and source.nets is {source.nets}"
        )


def _by_layer(where: str, choice: Names, network: Network) -> dict[str, str]:
    try:
        return by_layer(choice, network)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check_known(
    where: str, name: str, priors: Mapping[str, Any], size: int, others: tuple[str, ...] = ()
) -> None:
    if name not in priors:
        also = f"; it may also be {', '.join(others)}" if others else ""
        raise InputError(f"{where}: {name!r} is not known; the priors are {', '.join(priors)}{also}")
    fitted = getattr(priors[name], "sizes", None)
    if fitted and size_label(size) not in fitted:
        raise InputError(
            f"{where}: prior {name!r} is not fitted to {size_label(size)} kernels, which the network has; "
            f"priors.{name}.sizes has {', '.join(fitted)}"
        )


def _check_kingma(where: str, form: str, prior: Any) -> None:
    if getattr(prior, "approximation", None) == "kingma" and form != "truncated_alpha":
        raise InputError(
            f"{where}.posterior: {form!r} does not go with the approximation 'kingma', which "
            "holds for α <= 1; use truncated_alpha, or approximation: molchanov"
        )


def _check_pretrained(where: str, method: Method, settings: ExperimentSettings) -> None:
    if not method.pretrained:
        raise InputError(
            f"{where}: {PRETRAINED!r} is not for this experiment; use {', '.join(RULES)} or a prior"
        )
    if not is_pretrained(method):
        raise InputError(f"{where}: {PRETRAINED!r} is for the whole network, not for single layers")
    if (members := getattr(method, "members", 1)) > 1:
        raise InputError(f"{where}: {PRETRAINED!r} gives all {members} members one start; use members: 1")
    if any(width != 1 for width in getattr(settings, "width", ())):
        widths = list(settings.width)
        raise InputError(f"{where}: {PRETRAINED!r} needs width 1; the experiment has {widths}")
