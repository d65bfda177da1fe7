"""What the choices of a method mean: the prior, and the start, of each convolution of a network.

A choice is one name for all convolutions, or a mapping from a layer (`conv2`) or a
kernel size (`5x5`) to a name; a layer's own key goes first.
"""

from dwp import data
from dwp.bayes import posteriors
from dwp.errors import InputError
from dwp.initialisation import RULES
from dwp.nn.spec import Network, size_label
from dwp.pipeline.typed import parse
from dwp.priors.base import Prior, find

PRETRAINED = "pretrained"
STARTS = (*RULES, PRETRAINED)
NAMES = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": False,
            "patternProperties": {r"^([0-9]+)x\1$|^conv[0-9]+$": {"type": "string"}},
        },
    ],
    "description": "a name, or names by kernel size or layer, such as {7x7: vae, conv2: standard_normal}",
}


def init(starts: tuple[str, ...]) -> dict:
    """Return the JSON schema of where a method's kernels start: one of `starts` or a prior."""
    refused = [{"const": name} for name in STARTS if name not in starts]
    names = NAMES | {"description": f"{', '.join(starts)}, or priors by name"}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["from"],
        "properties": {
            "from": names | ({"not": {"anyOf": refused}} if refused else {}),
            "draw": {"enum": ["mean", "sample"], "description": "mean or sample"},
        },
    }


def by_layer(choice: str | dict[str, str], network: dict) -> dict[str, str]:
    """Return the name chosen for each convolution, by layer.

    Raises:
        InputError: a layer has no name, or a key belongs to no layer.
    """
    sizes = parse(Network, network).layer_sizes()
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


def is_bayesian(choices: dict) -> bool:
    """Return whether a method puts a prior on its kernels."""
    return choices.get("posterior", "none") != "none"


def priors_needed(choices: dict, network: dict) -> list[tuple[str, int]]:
    """Return name and kernel size of each prior that a method uses, in its KL or for its start."""
    chosen = [by_layer(choices["prior"], network)] if is_bayesian(choices) else []
    chosen.append(by_layer(choices["init"]["from"], network))
    sizes = parse(Network, network).layer_sizes()
    needed = {(name, sizes[layer]): None for names in chosen for layer, name in names.items()}
    return [need for need in needed if need[0] not in STARTS]


def is_pretrained(choices: dict) -> bool:
    """Return whether a method starts from a source network."""
    return choices["init"]["from"] == PRETRAINED


def check(where: str, choices: dict, experiment: dict, config: dict) -> None:
    """Refuse choices that do not go together.

    Args:
        where: the method's path in the configuration.
        choices: the method.
        experiment: settings of its experiment.
        config: the whole configuration.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    network, priors = experiment["network"], config["priors"]
    sizes = parse(Network, network).layer_sizes()
    form = choices.get("posterior", "none")
    if is_bayesian(choices):
        if "prior" not in choices:
            raise InputError(f"{where}.prior: missing; a Bayesian method needs one of {', '.join(priors)}")
        for layer, name in _by_layer(f"{where}.prior", choices["prior"], network).items():
            _check_known(f"{where}.prior", name, priors, sizes[layer])
            try:
                posteriors.find(form).check(find(priors[name]["kind"]))
            except InputError as error:
                raise InputError(f"{where}.prior: {name!r} with posterior {form!r}: {error}") from None
            _check_kingma(where, form, priors[name])
    elif "prior" in choices:
        raise InputError(
            f"{where}.prior: {choices['prior']!r} needs a posterior; here it is {form!r}, "
            f"use one of {', '.join(posteriors.FORMS)}"
        )
    for key in ("laplace", "dropout", "l2"):
        if is_bayesian(choices) and choices.get(key):
            raise InputError(f"{where}.{key}: {choices[key]} goes with posterior none; here it is {form!r}")
    if choices.get("laplace") and choices.get("dropout"):
        raise InputError(f"{where}.laplace: true does not go with dropout, here {choices['dropout']}")
    origin = choices["init"]["from"]
    for layer, name in _by_layer(f"{where}.init.from", origin, network).items():
        if name == PRETRAINED:
            members = choices.get("members", 1)
            _check_pretrained(f"{where}.init.from", origin, members, experiment, config)
        elif name not in RULES:
            _check_known(f"{where}.init.from", name, priors, sizes[layer], STARTS)
            cls = find(priors[name]["kind"])
            if cls.sample is Prior.sample:
                raise InputError(
                    f"{where}.init.from: {name!r} ({cls.kind}) cannot be sampled from; use another"
                )


def _by_layer(where: str, choice: str | dict[str, str], network: dict) -> dict[str, str]:
    try:
        return by_layer(choice, network)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check_known(where: str, name: str, priors: dict, size: int, others: tuple[str, ...] = ()) -> None:
    if name not in priors:
        also = f"; it may also be {', '.join(others)}" if others else ""
        raise InputError(f"{where}: {name!r} is not known; the priors are {', '.join(priors)}{also}")
    fitted = priors[name].get("sizes")
    if fitted and size_label(size) not in fitted:
        raise InputError(
            f"{where}: prior {name!r} is not fitted to {size_label(size)} kernels, which the network has; "
            f"priors.{name}.sizes has {', '.join(fitted)}"
        )


def _check_kingma(where: str, form: str, prior: dict) -> None:
    kingma = prior["kind"] == "log_uniform" and prior.get("approximation", "kingma") == "kingma"
    if kingma and form != "truncated_alpha":
        raise InputError(
            f"{where}.posterior: {form!r} does not go with the approximation 'kingma', which "
            "holds for α <= 1; use truncated_alpha, or approximation: molchanov"
        )


def _check_pretrained(where: str, origin: object, members: int, experiment: dict, config: dict) -> None:
    if origin != PRETRAINED:
        raise InputError(f"{where}: {PRETRAINED!r} is for the whole network, not for single layers")
    if config["kernels"]["files"]:
        raise InputError(f"{where}: {PRETRAINED!r} needs source networks; with kernels.files none is trained")
    source, chosen = config["source"]["network"], config["data"]
    if [experiment["network"][key] for key in ("layers", "batch_norm")] != [
        source[key] for key in ("layers", "batch_norm")
    ]:
        raise InputError(f"{where}: {PRETRAINED!r} needs the network of source.network; this one differs")
    shapes = {
        data.image_shape(chosen[which], data_root=config["data_root"]) for which in ("source", "target")
    }
    if len(shapes) > 1:
        raise InputError(
            f"{where}: {PRETRAINED!r} needs images of one shape; {chosen['source']} and "
            f"{chosen['target']} differ"
        )
    if experiment["seeds"] > config["source"]["nets"]:
        raise InputError(
            f"{where}: {PRETRAINED!r} starts each seed from the source network of that number; there are "
            f"{experiment['seeds']} seeds and source.nets is {config['source']['nets']}"
        )
    if members > 1:
        raise InputError(f"{where}: {PRETRAINED!r} gives all {members} members one start; use members: 1")
    if any(width != 1 for width in experiment.get("width", ())):
        raise InputError(f"{where}: {PRETRAINED!r} needs width 1; the experiment has {experiment['width']}")
