"""Trials of the methods of an experiment, as typed settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dwp.errors import InputError
from dwp.experiments import _tuning as tuning
from dwp.experiments import base as experiments
from dwp.experiments.base import ExperimentSettings, Method
from dwp.pipeline.typed import dump, parse


@dataclass(frozen=True)
class Trial:
    """One trial of a method.

    Attributes:
        chosen: the values under trial, by setting.
        settings: settings of the experiment with these values, its only method, and the axis and seeds of
            `tuning`.
    """

    chosen: Mapping[str, Any]
    settings: ExperimentSettings

    @property
    def method(self) -> Method:
        """Return the settings of the method."""
        (method,) = self.settings.methods.values()
        return method


def overridden(where: str, experiment: str, settings: ExperimentSettings, name: str) -> ExperimentSettings:
    """Return the settings of an experiment for one of its methods, with what the method overrides.

    Args:
        where: the experiment's path in the configuration.
        experiment: its name.
        settings: its settings.
        name: name of the method.

    Raises:
        InputError: the method overrides a setting that does not exist or is its own, or a value is not
            allowed.
    """
    declared, method = experiments.find(experiment), settings.methods[name]
    if not (override := getattr(method, "override", None)):
        return settings
    where = f"{where}.methods.{name}.override"
    tuning.check(where, declared, {key: (value,) for key, value in override.items()})
    for key in override:
        if hasattr(method, key):
            raise InputError(f"{where}.{key}: it is a setting of the method; write it there")
    shared = {key: value for key, value in dump(settings).items() if key != "methods"}
    changed, _ = tuning.apply(declared, shared, {}, override)
    try:
        return parse(declared.settings, changed | {"methods": {name: dump(method)}})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def trials(where: str, experiment: str, settings: ExperimentSettings) -> dict[str, list[Trial]]:
    """Return the trials of each tuned method of an experiment, in the order of the draws.

    Args:
        where: the experiment's path in the configuration.
        experiment: its name.
        settings: its settings.

    Raises:
        InputError: a space or the metric is not allowed; the message names the path or the trial.
    """
    declared, wanted = experiments.find(experiment), getattr(settings, "tuning", None)
    if wanted is None:
        for name, method in settings.methods.items():
            if getattr(method, "space", None) is not None:
                raise InputError(f"{where}.methods.{name}.space: without {where}.tuning, it has no effect")
        return {}
    allowed = [metric.name for metric in declared.metrics if metric.better and metric.averaged]
    if wanted.metric not in allowed:
        raise InputError(
            f"{where}.tuning.metric: {wanted.metric!r} is not allowed; expected one of {', '.join(allowed)}"
        )
    tuning.check(f"{where}.tuning.space", declared, wanted.space or {})
    common: dict[str, Any] = {"seeds": wanted.seeds, declared.axis: list(getattr(wanted, declared.axis))}
    # Only the metric at the end is of interest.
    common |= {name: off for name, off in (("outliers", False), ("every", 0)) if hasattr(settings, name)}
    found = {}
    for name, method in settings.methods.items():
        tuning.check(f"{where}.methods.{name}.space", declared, method.space or {})
        space = tuning.space(settings, name)
        if not space:
            continue
        own = {key: value for key, value in dump(method).items() if key not in ("space", "override")}
        mine = dump(overridden(where, experiment, settings, name))
        shared = {key: value for key, value in mine.items() if key not in ("methods", "tuning")} | common

        def trial(
            chosen: tuning.Chosen,
            name: str = name,
            own: Mapping[str, Any] = own,
            shared: Mapping[str, Any] = shared,
        ) -> Trial:
            changed, method = tuning.apply(declared, shared, own, chosen)
            try:
                return Trial(chosen, parse(declared.settings, changed | {"methods": {name: method}}))
            except InputError as error:
                shown = tuning.describe(chosen)
                raise InputError(f"{where}.methods.{name} (trial: {shown}): {error}") from None

        drawn = tuning.draw(space, wanted.trials)
        # Values that no trial has are checked as well.
        for key, values in space.items():
            for value in values:
                trial({**drawn[0], key: value})
        found[name] = [trial(chosen) for chosen in drawn]
    return found
