"""Checks across the sections of a configuration, and of the files that it names."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dwp import data
from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.experiments._tuning import describe
from dwp.experiments.base import ExperimentSettings
from dwp.nn.spec import Network, size_label
from dwp.pipeline import paths
from dwp.pipeline.config import method_checks
from dwp.pipeline.config.model import Config
from dwp.pipeline.config.trials import overridden

MOST_JOBS = 200_000  # Snakemake plans some 200 per second

Shape = tuple[int, int, int]


def check(config: Config) -> None:
    """Refuse values that each section allows but that do not go together.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    # The nearest existing folder, since `results` does not exist before the first run.
    folder = paths.RESULTS if paths.RESULTS.exists() else Path()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"results: {folder.resolve()} is not a folder that can be written to; free it or use --directory"
        )
    try:
        _check(config)
    except InputError as error:
        raise InputError(f"config: {error}") from None


def check_examples(config: Config, available: Mapping[str, int | None]) -> None:
    """Refuse experiments with more examples than their data set has, if its size is known.

    Args:
        config: the configuration.
        available: number of training examples of each data set, by name.

    Raises:
        InputError: names the experiment's path.
    """
    for name, settings in config.experiments.items():
        dataset = config.data_of(name)
        _check_count(f"experiments.{name}", settings, available[dataset], dataset)


def check_tuning_examples(config: Config, available: int | None) -> None:
    """Refuse trials with more examples than the data set of the tuning has, if its size is known.

    Raises:
        InputError: names the path.
    """
    for name, settings in config.experiments.items():
        if config.trials[name]:
            _check_count(f"experiments.{name}.tuning", settings.tuning, available, config.tuning_data)


def _check_count(where: str, settings: object, available: int | None, dataset: str) -> None:
    asked = getattr(settings, "examples", None)
    count = max(asked) if isinstance(asked, tuple) else asked
    if available is not None and count is not None and count > available:
        raise InputError(
            f"config: {where}.examples: {count} is more than the {available} training images of {dataset}"
        )


def _check(config: Config) -> None:
    if config.data_root is not None and not Path(config.data_root).is_dir():
        raise InputError(f"data_root: there is no folder {config.data_root}; give one, or null")
    for name in config.data.options:
        if name not in data.NAMES:
            raise InputError(
                f"data.options: {name!r} is not allowed; expected one of {', '.join(data.NAMES)}; "
                "a set of your own has no options"
            )
    shapes = {which: _image_shape(config, which) for which in ("source", "target", "tuning")}
    _check_tuning_data(config)
    _ = config.kernel_files  # refuses missing ones
    if config.trains_source:
        _check_network("source", config.source.network, config.data.source, shapes["source"])
    for name, prior in config.priors.items():
        for size in filter(prior.is_for, config.sizes):
            try:
                prior.facts.check_size(size)
            except InputError as error:
                raise InputError(f"priors.{name}: {error}") from None
    for experiment, settings in config.experiments.items():
        where = f"experiments.{experiment}"
        if experiments.find(experiment).reads == "text":
            _check_text(where, config)
            continue
        _check_network(where, settings.network, config.data.target, shapes["target"])
        _check_sizes(where, settings.network, config)
        if getattr(settings, "outliers", False):
            _check_one_shape(f"{where}.outliers: true", config, shapes, "target")
        others = ["target"]
        if config.trials[experiment]:
            _check_network(where, settings.network, config.tuning_data, shapes["tuning"])
            others.append("tuning")
        for name in settings.methods:
            starts = set()
            for place, case in _cases(f"{where}.methods.{name}", experiment, name, config):
                method_checks.check(place, case.methods[name], case, config)
                starts.add(methods.is_pretrained(case.methods[name]))
                if methods.is_pretrained(case.methods[name]):
                    _check_one_shape(f"{place}.init.from: {methods.PRETRAINED!r}", config, shapes, *others)
            if len(starts) > 1 and settings.network != config.source.network:
                raise InputError(
                    f"{where}.methods.{name}.space.init: source networks have another architecture than "
                    f"{where}.network, so {methods.PRETRAINED!r} cannot be one of several origins"
                )
    _check_jobs(config)


def _cases(
    where: str, experiment: str, name: str, config: Config
) -> Iterator[tuple[str, ExperimentSettings]]:
    """Yield path and settings of everything that a method may run with: its trials if it is tuned."""
    settings, trials = config.experiments[experiment], config.trials[experiment].get(name)
    if trials is None:
        yield where, overridden(f"experiments.{experiment}", experiment, settings, name)
        return
    for trial in trials:
        case = replace(trial.settings, seeds=max(settings.seeds, trial.settings.seeds))
        yield f"{where} (trial: {describe(trial.chosen)})", case


def _check_text(where: str, config: Config) -> None:
    name = config.data.text
    try:
        is_text = data.is_text(name, data_root=config.data_root)
    except InputError as error:
        raise InputError(f"data.text: {error}") from None
    if not is_text:
        raise InputError(f"data.text: {name!r} is a set of images; {where} reads text, such as python-docs")


def _check_tuning_data(config: Config) -> None:
    """Refuse to choose settings on the target, or on images that source networks have seen."""
    chosen = config.data
    if chosen.tuning == chosen.target:
        raise InputError(
            f"data.tuning: {chosen.tuning!r} is data.target, whose test images must not choose settings; "
            "use another data set, or null for the test images of the source"
        )
    if chosen.tuning == chosen.source:
        raise InputError(
            f"data.tuning: {chosen.tuning!r} is data.source, whose training images the source networks have "
            "seen; use null for its test images, or another data set"
        )
    if any(config.trials.values()) and config.tuning_data == chosen.target:
        raise InputError(
            f"data.tuning: null takes the test images of data.source, {chosen.source!r}, which is also "
            "data.target; use another data set"
        )


def _image_shape(config: Config, which: str) -> Shape:
    name = config.tuning_data if which == "tuning" else getattr(config.data, which)
    try:
        return data.image_shape(name, data_root=config.data_root)
    except InputError as error:
        raise InputError(f"data.{which}: {error}") from None


def _check_one_shape(where: str, config: Config, shapes: dict[str, Shape], *others: str) -> None:
    for other in others:
        if shapes["source"] != shapes[other]:
            name = config.tuning_data if other == "tuning" else config.data.target
            raise InputError(
                f"{where} needs images of one shape; {config.data.source} has {shapes['source']}, "
                f"{name} {shapes[other]}"
            )


def _check_network(where: str, network: Network, dataset: str, image_shape: Shape) -> None:
    try:
        network.check(image_shape)
    except InputError as error:
        raise InputError(f"{where}.{error} (images of {dataset})") from None


def _check_sizes(where: str, network: Network, config: Config) -> None:
    available, threshold = config.source.network.kernel_sizes(), config.kernels.threshold
    for size in network.kernel_sizes():
        found = f"{where}.network has {size_label(size)} kernels"
        if config.trains_source and size not in available:
            have = ", ".join(map(size_label, available))
            raise InputError(f"{found}, but source.network only {have}; no prior can be fitted to that size")
        if isinstance(threshold, dict) and size_label(size) not in threshold:
            raise InputError(f"{found}, but kernels.threshold names only {', '.join(threshold)}")


def _check_jobs(config: Config) -> None:
    """Refuse more jobs than Snakemake can plan."""
    jobs = {"source": _shards(config.source.nets, config.source.shard)}
    for name, settings in config.experiments.items():
        declared = experiments.find(name)
        cells = len(getattr(settings, declared.axis)) if declared.trains else 1
        shards = _shards(settings.seeds, settings.shard)
        jobs[f"experiments.{name}"] = shards * cells * len(settings.methods)
        for trial in (trial for trials in config.trials[name].values() for trial in trials):
            cells = len(getattr(trial.settings, declared.axis))
            jobs[f"experiments.{name}"] += cells * _shards(trial.settings.seeds, settings.shard)
    for where, count in jobs.items():
        if count > MOST_JOBS:
            raise InputError(
                f"{where}: makes {count} jobs, expected at most {MOST_JOBS}; raise {where}.shard"
            )


def _shards(count: int, size: int) -> int:
    return -(-count // size)
