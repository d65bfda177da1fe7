"""The typed configuration: its sections, and reading it from a mapping."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments.base import Count, ExperimentSettings
from dwp.experiments.methods import ORIGINS
from dwp.experiments.source_nets import SourceSettings
from dwp.kernels.files import expand
from dwp.kernels.pruning import RULES
from dwp.nn.spec import size_label
from dwp.pipeline.config import errors as config_errors
from dwp.pipeline.config.trials import Trial, trials
from dwp.pipeline.typed import adapter, parse, plain
from dwp.priors import settings as kinds
from dwp.priors.settings import PriorSettings
from dwp.settings import Bounds, setting
from dwp.training.schedule import Precision

Threshold = Literal[RULES] | Annotated[float, Bounds(ge=0)]  # type: ignore[valid-type]  # names from one place


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Data sets by name: embedded, downloaded, or folders of `data_root`."""

    source: str = setting("data set that the source networks are trained on")
    target: str = setting("data set that the experiments on images are run on")
    tuning: str | None = setting(
        "data set that settings are chosen on; null: the test images of the source data set, half of each "
        "class to train on and half to evaluate",
        None,
    )
    text: str = setting("data set of text that experiments with recurrent networks are run on", "python-docs")
    options: dict[str, dict[str, int | float]] = setting("options of the data sets, by name")


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """Collection and pruning of kernels."""

    files: tuple[str, ...] | None = setting(
        "your own checkpoints (.safetensors, .pt, .onnx) or arrays (.npy, .h5), or folders of them, used "
        "instead of source networks",
        min_length=1,
    )
    threshold: Threshold | dict[str, Threshold] = setting(
        "norm below which kernels are dropped, or the rule that chooses it, or either by kernel size: "
        "{7x7: otsu, 5x5: 0.13}"
    )
    test_fraction: float = setting("fraction of the kernels held out to evaluate priors", gt=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Held-out log density and samples of each prior."""

    kernels: int = setting(
        "maximum number of held-out kernels of each size, and number of samples to compare with them", ge=1
    )
    samples: tuple[Count, ...] = setting(
        "numbers K of importance samples in the bounds", min_length=1, unique=True
    )
    measure_time: bool = setting(
        "whether to measure the seconds of each fit and of 4,096 samples, which vary from run to run"
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Appearance of the figures."""

    dpi: int = setting("resolution of PNG figures", ge=50, le=600, unit="dots per inch")
    font_size: float = setting("size of text in figures", ge=5, le=30, unit="points")


@dataclass(frozen=True, kw_only=True)
class PriorChoice:
    """A prior of the configuration.

    Attributes:
        kind: kind of the prior.
        common: settings for all kernel sizes; None if each size has its own.
        sizes: settings by kernel size, such as '7x7', if the prior is for these sizes only.
    """

    kind: str
    common: PriorSettings | None = None
    sizes: Mapping[str, PriorSettings] = field(default_factory=dict)

    @property
    def facts(self) -> type[PriorSettings]:
        """Return the settings class of its kind."""
        return kinds.find(self.kind)

    def is_for(self, size: int) -> bool:
        """Return whether the prior applies to kernels of a size."""
        return not self.sizes or size_label(size) in self.sizes

    @property
    def is_control(self) -> bool:
        """Return whether the prior leaves out the structure of the kernels on purpose."""
        return any(one.is_control for one in filter(None, (self.common, *self.sizes.values())))

    def of(self, size: int) -> PriorSettings:
        """Return the settings for kernels of a size."""
        return self.common or self.sizes[size_label(size)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration."""

    data_root: str | None = setting("folder with local copies, <data set>/, used instead of downloads")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("device that jobs compute on")
    threads: int = setting("threads of a job", ge=1)
    checkpoint_seconds: float = setting("time between two checkpoints of a job", ge=0, unit="seconds")
    precision: Precision = setting("precision of matrix products; auto: bfloat16 where it is faster")
    data: DataSettings = setting("data sets")
    source: SourceSettings = setting("source networks")
    kernels: KernelSettings = setting("kernels of the source networks")
    priors: dict[str, Any] = setting("priors by name; null removes one")
    scores: ScoreSettings = setting("scores of the priors")
    experiments: dict[str, Any] = setting("experiments by name; null removes one")
    report: ReportSettings = setting("report")

    @property
    def trains_source(self) -> bool:
        """Return whether the workflow trains source networks: kernels are needed, and none are given."""
        return not self.kernels.files and bool(self.sizes)

    @cached_property
    def kernel_files(self) -> list[str]:
        """Return your own files of kernels, with the files of each folder.

        Raises:
            InputError: see `dwp.kernels.files.expand`.
        """
        return expand(self.kernels.files or (), "kernels.files")

    @cached_property
    def sizes(self) -> list[int]:
        """Return the kernel sizes that need priors: those of the experiments' networks."""
        networks = [settings.network for settings in self.experiments.values()]
        return sorted({size for network in networks for size in network.kernel_sizes()}, reverse=True)

    @cached_property
    def trials(self) -> dict[str, dict[str, list[Trial]]]:
        """Return the trials of each tuned method, by experiment and method.

        Raises:
            InputError: see `trials.trials`.
        """
        return {
            name: trials(f"experiments.{name}", name, settings) for name, settings in self.experiments.items()
        }

    def data_of(self, experiment: str) -> str:
        """Return the name of the data set that an experiment is run on."""
        return self.data.text if experiments.find(experiment).reads == "text" else self.data.target

    @property
    def tuning_data(self) -> str:
        """Return the name of the data set of the trials."""
        return self.data.tuning or self.data.source

    def threshold(self, size: int) -> str | float:
        """Return the pruning rule or threshold for kernels of a size."""
        chosen = self.kernels.threshold
        return chosen[size_label(size)] if isinstance(chosen, dict) else chosen


def read(config: Mapping) -> Config:
    """Return a configuration from a mapping, without the entries that are null.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    try:
        typed = parse(Config, config)
        if isinstance(typed.kernels.threshold, dict):
            _check_squares("kernels.threshold", typed.kernels.threshold)
        return replace(
            typed,
            priors={
                name: _prior(name, value)
                for name, value in _named("priors", _kept("priors", typed.priors)).items()
            },
            experiments={
                name: _experiment(name, value)
                for name, value in _kept("experiments", typed.experiments, least=1).items()
            },
        )
    except InputError as error:
        raise InputError(f"config: {error}") from None


def _kept(where: str, entries: Mapping[str, Any], least: int = 0) -> dict[str, Any]:
    """Return the entries that are not null; refuse fewer than `least`."""
    kept = {name: value for name, value in entries.items() if value is not None}
    if len(kept) < least:
        raise InputError(f"{where}: none is left; expected at least one that is not null")
    return kept


def _named(where: str, entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the entries; refuse names that cannot be part of a file name."""
    for name in entries:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise InputError(
                f"{where}: {name!r} is not allowed; expected a name of letters, digits and _, a letter first"
            )
    return entries


def _experiment(name: str, value: object) -> ExperimentSettings:
    where, settings = f"experiments.{name}", experiments.find(name).settings
    if isinstance(value, dict) and isinstance(value.get("methods"), dict):
        kept = _kept(f"{where}.methods", value["methods"], least=1)
        value = {**value, "methods": _named(f"{where}.methods", kept)}
    return parse(settings, value, where)


def _prior(name: str, value: object) -> PriorChoice:
    where = f"priors.{name}"
    if name in ORIGINS:
        raise InputError(f"{where}: this name has a meaning in init; expected any but {', '.join(ORIGINS)}")
    if not isinstance(value, dict):
        found = config_errors.shown(value)
        raise InputError(f"{where}: {found} is not allowed; expected null or a mapping with kind")
    if not isinstance(kind := value.get("kind"), str):
        found = f"{config_errors.shown(kind)} is not allowed" if "kind" in value else "missing"
        raise InputError(f"{where}.kind: {found}; expected one of {', '.join(kinds.known())}")
    try:
        settings = kinds.find(kind)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    known = ["kind", *(entry.name for entry in fields(settings)), *(["sizes"] if settings.fitted else [])]
    for key in value:
        if key not in known:
            raise InputError(f"{where}.{key}: {config_errors.unknown_key(key, known)}")
    common = {key: inner for key, inner in value.items() if key not in ("kind", "sizes")}
    if "sizes" not in value:
        return PriorChoice(kind=kind, common=parse(settings, common, where))
    _refuse_part(settings, common, where)
    sizes, where = value["sizes"], f"{where}.sizes"
    if not isinstance(sizes, dict) or not sizes:
        found = config_errors.shown(sizes)
        raise InputError(f"{where}: {found} is not allowed; expected a mapping such as {{7x7: {{}}}}")
    _check_squares(where, sizes)
    return PriorChoice(
        kind=kind,
        sizes={
            size: _of_size(settings, common, special, f"{where}.{size}") for size, special in sizes.items()
        },
    )


def _of_size(
    settings: type[PriorSettings], common: Mapping[str, Any], special: object, where: str
) -> PriorSettings:
    """Return the settings for one kernel size, which override the common ones, also within the schedule."""
    if not isinstance(special, dict):
        raise InputError(
            f"{where}: {config_errors.shown(special)} is not allowed; expected a mapping of settings"
        )
    merged = dict(common)
    for key, value in special.items():
        both = isinstance(value, dict) and isinstance(common.get(key), dict)
        merged[key] = {**common[key], **value} if both else value
    return parse(settings, merged, where)


def _refuse_part(settings: type, value: dict, where: str) -> None:
    """Refuse invalid values in a part of a group of settings; missing keys are allowed."""
    value = plain(value)
    try:
        adapter(settings).validate_json(json.dumps([value]))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if refusal := config_errors.first(settings, value, errors, where, partial=True):
            raise refusal from None


def _check_squares(where: str, sizes: Iterable[str]) -> None:
    for size in sizes:
        if not re.fullmatch(r"([1-9][0-9]*)x\1", size):
            raise InputError(f"{where}: {size!r} is not allowed; expected a kernel size, such as 7x7")
