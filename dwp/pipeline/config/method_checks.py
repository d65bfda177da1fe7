"""Checks of a method's settings against its experiment, its priors and the source networks."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from dwp.bayes.settings import FORMS, POSTERIORS, SAMPLED
from dwp.errors import InputError
from dwp.experiments.base import ExperimentSettings, KernelMethod, Names
from dwp.experiments.methods import ORIGINS, PRETRAINED, PRIOR, by_layer, is_pretrained
from dwp.nn.spec import RULES, size_label
from dwp.pipeline.config.model import Config, PriorChoice
from dwp.priors.settings import CentredSettings

Priors = Mapping[str, PriorChoice]


def check(where: str, method: KernelMethod, settings: ExperimentSettings, config: Config) -> None:
    """Refuse settings of a method that do not go together.

    Args:
        where: the method's path in the configuration.
        method: settings of the method.
        settings: settings of its experiment.
        config: the whole configuration.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    if is_pretrained(method):
        settings = replace(settings, network=config.source.network)
    _check_prior(where, method, settings, config.priors)
    if (scale := getattr(method, "prior_scale", None)) and (prior := getattr(method, PRIOR)) != PRETRAINED:
        raise InputError(f"{where}.prior_scale: {scale} goes with prior {PRETRAINED}; here it is {prior!r}")
    _check_origin(f"{where}.init.from", method, settings, config)
    for key in ("laplace", "dropout", "l2"):
        if method.is_bayesian and (value := getattr(method, key, None)):
            raise InputError(f"{where}.{key}: {value} goes with posterior none; here it is {_form(method)!r}")
    if not method.is_bayesian and (weight := getattr(method, "kl_weight", 1)) != 1:
        raise InputError(f"{where}.kl_weight: {weight} needs a posterior; here it is 'none'")
    if (start := getattr(method, "log_variance", None)) is not None and _form(method) != "additive":
        raise InputError(
            f"{where}.log_variance: {start} goes with posterior additive; here it is {_form(method)!r}"
        )
    _check_objective(where, method, settings, config.priors)
    if (kind := getattr(method, "scales", None)) and _form(method) in ("none", SAMPLED):
        raise InputError(f"{where}.scales: {kind!r} does not go with posterior {_form(method)!r}")
    if _form(method) == SAMPLED:
        if not getattr(method, "kl_weight", 1):
            raise InputError(
                f"{where}.kl_weight: 0 does not go with posterior {SAMPLED}; give a positive weight"
            )
        if _dropout(method, settings):
            raise InputError(f"{where}.posterior: {SAMPLED} does not go with dropout; set {where}.dropout: 0")
    if getattr(method, "frozen", False):
        if method.is_bayesian:
            raise InputError(f"{where}.frozen: true goes with posterior none; here it is {_form(method)!r}")
        if (start := getattr(method, "classifier", "random")) != "fitted":
            raise InputError(f"{where}.frozen: true needs classifier fitted; here it is {start!r}")
    if getattr(method, "laplace", False) and getattr(method, "augment", None):
        raise InputError(f"{where}.laplace: true does not go with augment")
    if getattr(method, "laplace", False) and (dropout := getattr(method, "dropout", None)):
        raise InputError(f"{where}.laplace: true does not go with dropout, here {dropout}")


def _check_objective(where: str, method: KernelMethod, settings: ExperimentSettings, priors: Priors) -> None:
    objective, form = getattr(method, "objective", "elbo"), _form(method)
    if objective == "elbo":
        return
    gaussian = [name for name, one in FORMS.items() if one.gaussian]
    if form not in gaussian:
        allowed = " or ".join(gaussian)
        raise InputError(f"{where}.objective: {objective!r} needs posterior {allowed}; here it is {form!r}")
    for name, _ in _chosen(f"{where}.prior", getattr(method, PRIOR), settings):
        facts = CentredSettings if name == PRETRAINED else priors[name].facts
        if not facts.has_density or not facts.exact:
            raise InputError(
                f"{where}.objective: {objective!r} needs a prior with an exact density, unlike {name!r} "
                f"({facts.kind})"
            )
    if not getattr(method, "kl_weight", 1):
        raise InputError(
            f"{where}.kl_weight: 0 does not go with objective {objective!r}; give a positive weight"
        )
    if kind := getattr(method, "scales", None):
        raise InputError(f"{where}.scales: {kind!r} does not go with objective {objective!r}")
    if _dropout(method, settings):
        raise InputError(f"{where}.objective: {objective!r} does not go with dropout; set {where}.dropout: 0")


def _dropout(method: KernelMethod, settings: ExperimentSettings) -> float:
    rate = getattr(method, "dropout", None)
    return settings.network.dropout if rate is None else rate


def _form(method: KernelMethod) -> str:
    return getattr(method, "posterior", "none")


def _check_prior(where: str, method: KernelMethod, settings: ExperimentSettings, priors: Priors) -> None:
    prior, form = getattr(method, "prior", None), _form(method)
    if not method.is_bayesian:
        if prior is not None:
            raise InputError(
                f"{where}.prior: {prior!r} needs a posterior; here it is {form!r}, "
                f"use one of {', '.join(POSTERIORS)}"
            )
        return
    if prior is None:
        raise InputError(f"{where}.prior: missing; a Bayesian method needs one of {', '.join(priors)}")
    for name, size in _chosen(f"{where}.prior", prior, settings):
        if name == PRETRAINED and hasattr(method, "prior_scale"):
            _check_centred(where, method)
            continue
        _check_known(f"{where}.prior", name, priors, size)
        try:
            POSTERIORS[form].check(priors[name].facts)
        except InputError as error:
            raise InputError(f"{where}.prior: {name!r} with posterior {form!r}: {error}") from None
        try:
            priors[name].of(size).check_posterior(form)
        except InputError as error:
            raise InputError(f"{where}.posterior: {form!r} with prior {name!r}: {error}") from None


def _check_centred(where: str, method: KernelMethod) -> None:
    """Refuse settings that do not go with a prior around the weights of a source network."""
    if getattr(method, PRIOR) != PRETRAINED:
        raise InputError(f"{where}.prior: {PRETRAINED!r} is for the whole network, not for single layers")
    if not is_pretrained(method):
        raise InputError(f"{where}.prior: {PRETRAINED!r} needs init.from {PRETRAINED}")
    if getattr(method, "prior_scale", None) is None:
        raise InputError(f"{where}.prior_scale: missing; prior {PRETRAINED!r} needs one, such as 0.1")
    try:
        POSTERIORS[_form(method)].check(CentredSettings)
    except InputError as error:
        raise InputError(f"{where}.prior: {PRETRAINED!r} with posterior {_form(method)!r}: {error}") from None


def _check_origin(where: str, method: KernelMethod, settings: ExperimentSettings, config: Config) -> None:
    origins = ORIGINS if method.pretrained else RULES
    for name, size in _chosen(where, method.init.origin, settings):
        if name in ORIGINS and (control := method.init.control) != "none":
            raise InputError(f"{where}: {name!r} does not go with init.control {control!r}; name a prior")
        if name in RULES:
            continue
        if name == PRETRAINED:
            _check_pretrained(f"{where}: {PRETRAINED!r}", method, settings, config)
            continue
        _check_known(where, name, config.priors, size, origins)
        facts = config.priors[name].facts
        if not facts.has_samples:
            raise InputError(f"{where}: {name!r} ({facts.kind}) cannot be sampled from; use another")


def _chosen(where: str, choice: Names, settings: ExperimentSettings) -> Iterable[tuple[str, int]]:
    """Return the chosen name and the kernel size of each convolution."""
    try:
        names = by_layer(choice, settings.network)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    sizes = settings.network.layer_sizes()
    return [(name, sizes[layer]) for layer, name in names.items()]


def _check_known(where: str, name: str, priors: Priors, size: int, others: tuple[str, ...] = ()) -> None:
    if name not in priors:
        also = f"; it may also be {', '.join(others)}" if others else ""
        raise InputError(f"{where}: {name!r} is not known; the priors are {', '.join(priors)}{also}")
    if not priors[name].is_for(size):
        raise InputError(
            f"{where}: prior {name!r} is not fitted to {size_label(size)} kernels, which the network has; "
            f"priors.{name}.sizes has {', '.join(priors[name].sizes)}"
        )


def _check_pretrained(where: str, method: KernelMethod, settings: ExperimentSettings, config: Config) -> None:
    """Refuse a method that cannot start from source networks; `where` ends in 'pretrained'."""
    if not method.pretrained:
        raise InputError(f"{where} is not allowed; expected {', '.join(RULES)}, or priors by name")
    if not is_pretrained(method):
        raise InputError(f"{where} is for the whole network, not for single layers")
    if not config.trains_source:
        raise InputError(f"{where} needs source networks; with kernels.files none is trained")
    needed, trained = settings.seeds * getattr(method, "members", 1), config.source.nets
    if needed > trained:
        raise InputError(
            f"{where} needs {needed} source networks, one for each start; source.nets is {trained}"
        )
    missing = set(config.source.network.kernel_sizes()) - set(config.sizes)
    if method.is_bayesian and getattr(method, PRIOR) != PRETRAINED and missing:
        raise InputError(
            f"{where} needs priors over {', '.join(map(size_label, missing))} kernels, which no experiment's "
            "network has"
        )
    widths = [*getattr(settings, "width", ()), getattr(method, "width", 1)]
    if any(width != 1 for width in widths):
        raise InputError(f"{where} needs width 1; it has {max(widths)}")
