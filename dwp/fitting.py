"""Fit a prior to kernels."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from dwp.errors import InputError, unknown
from dwp.kernels.collection import split
from dwp.nn.precision import at_least_float32
from dwp.priors import scores
from dwp.priors.base import Prior, find
from dwp.priors.distributions import as_kernels
from dwp.priors.settings import PriorSettings, known
from dwp.priors.settings import find as find_settings
from dwp.training.schedule import Schedule

SCHEDULE = {"steps": 6000, "batch": 128, "lr": 0.001}
# Of the settings of a kind that have no default.
DEFAULTS: dict[str, dict[str, Any]] = {kind: {"hidden": 32, "latent": 4} for kind in ("vae", "whitened_vae")}
VALIDATION_FRACTION = 0.1

SCORED = 2000
"""Largest number of held-out kernels whose log density is computed."""
SAMPLES = 100
"""K of the importance-weighted bound on the held-out log density."""


def fit_prior(
    kernels: Tensor, kind: str = "vae", *, test_fraction: float = 0.2, seed: int = 0, **settings: Any
) -> Prior:
    """Fit a prior to kernels, on their device.

    Part of the kernels is held out, and the mean log density of at most 2000 of them is recorded in
    the prior, see below. Equal kernels are on the same side of this split.

    Args:
        kernels: [n, 1, k, k], such as those of `dwp.collect`; or the weight of a convolution, [o, i, k, k].
        kind: 'vae', 'whitened_vae', 'arbitrary_conditioning_vae', 'pairwise_augmented_gan',
            'metropolis_hastings', 'flow' (needs zuko), 'flow_matching', 'mixture', 'gaussian',
            'gaussian_mixture', 'student_t' (needs scipy), 'empirical', or another fitted kind.
        test_fraction: fraction of the kernels to hold out.
        seed: seed of the split and of the training.
        settings: settings of the kind, in place of these defaults. A kind that is trained (the VAEs,
            flows, the GAN and the Metropolis-Hastings sampler) has `schedule`,
            {"steps": 6000, "batch": 128, "lr": 0.001} with a linear decay to zero, or `epochs` in place of
            `steps`; and `validation_fraction`, 0.1, of the training kernels, which chooses the best epoch.
            A `vae` or `whitened_vae` has `hidden` 32, `latent` 4 and a standard normal prior over its codes;
            a flow 6 affine couplings with 128 hidden units. See `dwp.priors.settings` for these and the
            others.

    Returns:
        The prior, with frozen parameters. If it has a density, `held_out` has the mean `log_prob` of
        `kernels` held-out kernels in nats per kernel, its `standard_error`, and `samples`, the number K
        of the importance-weighted bound (1 for an exact density).

    Raises:
        InputError: the kind is not fitted or not known, a setting is not known or not allowed, or the
            kernels are too few, not finite or not square.
    """
    cls = find_settings(kind)
    if not cls.fitted:
        fitted = [name for name in known() if find_settings(name).fitted]
        raise InputError(f"fit_prior: {kind} has nothing to fit; use one of {', '.join(fitted)}")
    settings = _complete(kind, cls, settings)
    w = at_least_float32(as_kernels(kernels.detach(), kernels.shape[-1]))
    if not w.isfinite().all():
        raise InputError("fit_prior: the kernels have numbers that are not finite")
    train, test = split(w, test_fraction, seed)
    prior, _ = find(kind).fit(train, test, settings, seed=seed)
    if cls.has_density:
        (row,) = scores.score({kind: prior}, scores.held_out(test, SCORED), [SAMPLES])
        names = {"log_prob": "mean", "standard_error": "standard_error", "kernels": "kernels"}
        prior.held_out = {name: row[column] for name, column in names.items()}
        prior.held_out["samples"] = row["samples"]
    return prior


def _complete(kind: str, cls: type[PriorSettings], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the defaults of a kind."""
    _refuse_unknown(kind, given, (field.name for field in dataclasses.fields(cls)))
    settings = {**DEFAULTS.get(kind, {}), **given}
    if cls.trained:
        schedule = dict(given.get("schedule", {}))
        _refuse_unknown(f"{kind}.schedule", schedule, (field.name for field in dataclasses.fields(Schedule)))
        settings["schedule"] = {**SCHEDULE, **schedule}
        if "epochs" in schedule and "steps" not in schedule:
            del settings["schedule"]["steps"]
        settings.setdefault("validation_fraction", VALIDATION_FRACTION)
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.name not in settings:
            raise InputError(f"fit_prior: {kind} needs {field.name}: {field.metadata['description']}")
    return settings


def _refuse_unknown(where: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    for name in given:
        if not allowed:
            raise InputError(f"fit_prior: {where} has no settings; {name} was given")
        if name not in allowed:
            raise unknown(f"fit_prior: {where}", name, allowed)
