"""Tuning of methods: the space of a method, its trials, their settings, and the choice of the best."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dwp.errors import InputError, unknown
from dwp.experiments.base import Better, Experiment, ExperimentSettings
from dwp.settings import marked
from dwp.training.schedule import Schedule

Chosen = dict[str, Any]
"""Plain values of settings, by name."""


def space(settings: ExperimentSettings, name: str) -> dict[str, tuple[Any, ...]]:
    """Return the space of a method: that of every method, and its own over it; empty if it is not tuned."""
    if (tuning := getattr(settings, "tuning", None)) is None:
        return {}
    both = {**(tuning.space or {}), **(settings.methods[name].space or {})}
    return {key: values for key, values in both.items() if values is not None}


def draw(space: Mapping[str, Sequence[Any]], count: int) -> list[Chosen]:
    """Return the trials of a space: all combinations if there are at most `count`, else a random sample.

    The sample depends only on the arguments, and a larger one contains a smaller one.
    """
    keys = sorted(space)
    sizes = [len(space[key]) for key in keys]
    total = combinations_in(space)
    if total <= count:
        combinations = itertools.product(*(space[key] for key in keys))
        return [dict(zip(keys, values, strict=True)) for values in combinations]
    # Only the numbers of random() are the same in every version of Python.
    generator, drawn = random.Random(0), dict[int, None]()
    while len(drawn) < count:
        drawn[int(generator.random() * total)] = None
    trials = []
    for number in drawn:
        chosen, rest = {}, number
        for key, size in zip(keys, sizes, strict=True):
            rest, place = divmod(rest, size)
            chosen[key] = space[key][place]
        trials.append(chosen)
    return trials


def combinations_in(space: Mapping[str, Sequence[Any]]) -> int:
    """Return the number of combinations of the values in a space."""
    return math.prod(map(len, space.values()))


def tunable(experiment: Experiment) -> list[str]:
    """Return the names of the settings that a space may contain."""
    fixed = {"title", "network", "schedule", "precision", "tuning", "space", "override", experiment.axis}
    # A larger ensemble costs more and is better; its size is not for a metric to choose.
    fixed |= {"members"}
    fixed.update(marked(experiment.settings, "counts"))
    classes = (experiment.method, Schedule, experiment.settings)
    return [name for name in dict.fromkeys(itertools.chain(*map(_names, classes))) if name not in fixed]


def check(where: str, experiment: Experiment, space: Mapping[str, Sequence[Any] | None]) -> None:
    """Refuse an unknown setting, and lists of values that are empty or repeat a value.

    Raises:
        InputError: names the path, below `where`.
    """
    for key, values in space.items():
        if key not in (known := tunable(experiment)):
            raise unknown(where, key, known)
        if values is None:
            continue
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if not texts or len(set(texts)) < len(texts):
            raise InputError(
                f"{where}.{key}: [{', '.join(texts)}] is not allowed; expected at least one value, each once"
            )


def apply(
    experiment: Experiment, settings: Mapping[str, Any], method: Mapping[str, Any], chosen: Chosen
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return plain settings of an experiment and of a method, with the chosen values in their places."""
    settings, method = without(experiment, settings, method, chosen)
    for name, value in chosen.items():
        _holder(experiment, name, settings, method)[name] = value
    return settings, method


def without(
    experiment: Experiment, settings: Mapping[str, Any], method: Mapping[str, Any], names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return plain settings of an experiment and of a method, without those of these names."""
    settings, method = {**settings, "schedule": dict(settings["schedule"])}, dict(method)
    for name in names:
        _holder(experiment, name, settings, method).pop(name, None)
    return settings, method


def _holder(experiment: Experiment, name: str, settings: Chosen, method: Chosen) -> Chosen:
    """Return the mapping that a setting belongs to: the method, the schedule or the experiment."""
    if name in _names(experiment.method):
        return method
    return settings["schedule"] if name in _names(Schedule) else settings


def choose(means: Sequence[float], better: Better) -> int:
    """Return the index of the best mean, the first of equal ones; NaN and infinite ones are never chosen.

    Raises:
        InputError: no mean is finite.
    """
    finite = [index for index, mean in enumerate(means) if math.isfinite(mean)]
    if not finite:
        raise InputError(f"none of the {len(means)} trials has a finite mean; expected at least one")
    sign = -1 if better == "higher" else 1
    return min(finite, key=lambda index: sign * means[index])


def describe(chosen: Mapping[str, Any]) -> str:
    """Return chosen settings in one line: 'lr 0.001, init {"from": "vae"}'."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in chosen.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]
