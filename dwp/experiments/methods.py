"""Priors and initialisations chosen by a method, per convolution.

A choice is one name for all convolutions, or a mapping from layers (`conv2`) or kernel
sizes (`5x5`) to names, in which layers take precedence.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dwp.errors import InputError
from dwp.experiments.base import KernelMethod, Method, Names
from dwp.nn.spec import RULES, Network, size_label

PRIOR = "prior"
"""Name of the setting with the prior of a Bayesian method."""

PRETRAINED = "pretrained"
ORIGINS = (*RULES, PRETRAINED)


class PriorUse(NamedTuple):
    """How a method uses a prior over kernels.

    Attributes:
        prior: name of the prior.
        use: 'prior' and the posterior, as in 'prior, hmc', of a Bayesian network; 'initialisation' or
            'initialisation, frozen' of another.
        sizes: kernel sizes of the network.
    """

    prior: str
    use: str
    sizes: Sequence[int]


def by_layer(choice: Names, network: Network) -> dict[str, str]:
    """Return the chosen name of each convolution, by layer.

    Raises:
        InputError: a layer has no name, or a key matches no layer.
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
    """Return name and kernel size of each prior that a method uses, in its KL or its initialisation."""
    if not isinstance(method, KernelMethod):
        return []
    chosen = [by_layer(getattr(method, PRIOR), network)] if method.is_bayesian else []
    chosen.append(by_layer(method.init.origin, network))
    sizes = network.layer_sizes()
    needed = {(name, sizes[layer]): None for names in chosen for layer, name in names.items()}
    return [need for need in needed if need[0] not in ORIGINS]


def with_names(plain: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return plain settings of a method, or chosen values of a trial, with its priors under other names.

    Args:
        plain: the settings; perhaps with `prior`, and `init` with `from`.
        names: the other name of each prior, by its name.
    """

    def renamed(choice: Names) -> Names:
        if isinstance(choice, str):
            return names.get(choice, choice)
        return {key: names.get(name, name) for key, name in choice.items()}

    found = dict(plain)
    if found.get(PRIOR):
        found[PRIOR] = renamed(found[PRIOR])
    if "init" in found:
        found["init"] = {**found["init"], "from": renamed(found["init"]["from"])}
    return found


def names_used(method: Method) -> set[str]:
    """Return the names in a method's prior and initialisation, without an initialisation under a control."""
    if not isinstance(method, KernelMethod):
        return set()
    # A method whose prior is among the values to try in tuning may have none.
    chosen = [prior] if method.is_bayesian and (prior := getattr(method, PRIOR)) else []
    if method.init.control == "none":
        chosen.append(method.init.origin)
    return {name for choice in chosen for name in ([choice] if isinstance(choice, str) else choice.values())}


def only_use(method: Method, network: Network) -> PriorUse | None:
    """Return how a method uses a prior, if all its kernels have this prior and no other; otherwise None.

    A Bayesian network may start from a rule such as xavier, but not from a source network. Initial kernels
    under a control are no use of the prior that they are drawn from.
    """
    names, posterior = names_used(method), getattr(method, "posterior", "none")
    if posterior != "none":
        names -= {*RULES}
    if len(names) != 1 or names <= {*ORIGINS}:
        return None
    (prior,) = names
    use = "initialisation" if posterior == "none" else f"prior, {posterior}"
    if getattr(method, "frozen", False):
        use += ", frozen"
    return PriorUse(prior, use, network.kernel_sizes())


def is_pretrained(method: Method) -> bool:
    """Return whether a method starts from source networks."""
    return isinstance(method, KernelMethod) and method.init.origin == PRETRAINED


def source_nets(members: int, seeds: Iterable[int]) -> set[int]:
    """Return the numbers of the source networks from which ensembles with these seeds start."""
    return {source_net(members, seed, member) for seed in seeds for member in range(members)}


def source_net(members: int, seed: int, member: int) -> int:
    """Return the number of the source network from which one member starts; no two share one."""
    return seed * members + member
