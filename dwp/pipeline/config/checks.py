"""Checks across the sections of a configuration, and of the files that it names."""

import os
from pathlib import Path

from dwp import data
from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.nn.spec import Network, size_label
from dwp.pipeline import paths
from dwp.pipeline.config import method_checks
from dwp.pipeline.config.model import Config

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


def check_examples(config: Config, available: int | None) -> None:
    """Refuse experiments with more examples than the target data set has, if its size is known.

    Raises:
        InputError: names the experiment's path.
    """
    asked = {name: getattr(settings, "examples", None) for name, settings in config.experiments.items()}
    most = {name: max(value) if isinstance(value, tuple) else value for name, value in asked.items() if value}
    for name, count in most.items():
        if available is not None and count > available:
            raise InputError(
                f"config: experiments.{name}.examples: {count} is more than the {available} "
                f"training images of {config.data.target}"
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
    shapes = {which: _image_shape(config, which) for which in ("source", "target")}
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
        _check_network(where, settings.network, config.data.target, shapes["target"])
        _check_sizes(where, settings.network, config)
        if getattr(settings, "outliers", False):
            _check_one_shape(f"{where}.outliers: true", config, shapes)
        for name, method in settings.methods.items():
            method_checks.check(f"{where}.methods.{name}", method, settings, config)
            if methods.is_pretrained(method):
                _check_one_shape(f"{where}.methods.{name}.init.from: {methods.PRETRAINED!r}", config, shapes)
    _check_jobs(config)


def _image_shape(config: Config, which: str) -> Shape:
    try:
        return data.image_shape(getattr(config.data, which), data_root=config.data_root)
    except InputError as error:
        raise InputError(f"data.{which}: {error}") from None


def _check_one_shape(where: str, config: Config, shapes: dict[str, Shape]) -> None:
    if shapes["source"] != shapes["target"]:
        raise InputError(
            f"{where} needs images of one shape; {config.data.source} has {shapes['source']}, "
            f"{config.data.target} {shapes['target']}"
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
    for where, count in jobs.items():
        if count > MOST_JOBS:
            raise InputError(
                f"{where}: makes {count} jobs, expected at most {MOST_JOBS}; raise {where}.shard"
            )


def _shards(count: int, size: int) -> int:
    return -(-count // size)
