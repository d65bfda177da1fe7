"""What an experiment is: its settings, methods, metrics and figures, declared in one module.

An experiment compares methods on the target data set. It is a module `dwp/experiments/<name>.py`
with an `EXPERIMENT`; no other file changes. Declarations import neither PyTorch nor pandas, so
that a run is planned without them: `run` imports what it computes with.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import dwp.experiments
from dwp.errors import unknown
from dwp.nn.spec import Network
from dwp.settings import Bounds, setting
from dwp.training.schedule import Schedule

COLUMNS = ("experiment", "method", "setting", "seed", "step", "metric", "part", "value")
"""Columns of an experiment's rows.

`setting` is a value of the experiment's axis, `step` the training step, and `part` what a value is
of, where a metric has several at one step: a kernel size, a bin of confidence; empty otherwise.
"""

Names = str | dict[str, str]
"""One name for all convolutions, or names by kernel size (`5x5`) or layer (`conv2`)."""

Count = Annotated[int, Bounds(ge=1)]
Factor = Annotated[float, Bounds(gt=0)]
FromZero = Annotated[float, Bounds(ge=0)]
METHODS = "methods to compare, by name"
"""Description of an experiment's methods."""

Better = Literal["higher", "lower", ""]


# Settings


@dataclass(frozen=True, kw_only=True)
class Init:
    """Where the kernels of a method's network start."""

    origin: Names = setting(
        "origin of the initial kernels: xavier, he, the name of a prior, or pretrained (the source network "
        "of the same seed); or origins by kernel size or layer, such as {7x7: vae, conv2: he}",
        alias="from",
    )
    draw: Literal["mean", "sample"] = setting(
        "how kernels are drawn from a prior: sample, or mean, without the decoder's noise", "sample"
    )


@dataclass(frozen=True, kw_only=True)
class Method:
    """The settings of one method; an experiment whose methods have more of them extends it."""

    pretrained: ClassVar[bool] = True
    """Whether a method may start from a source network."""

    init: Init = setting("initial kernels of the network")

    @property
    def is_bayesian(self) -> bool:
        """Return whether the method puts a prior on its kernels."""
        return getattr(self, "posterior", "none") != "none"


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """The settings of every experiment.

    An experiment extends it by its own, among them the tuple of values of its axis, and says
    of what class its methods are, `methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)`.
    """

    seeds: int = setting("number of seeds: 0 to seeds - 1", ge=1, counts=True)
    shard: int = setting("seeds per job", ge=1, counts=True)
    network: Network = setting("network that is trained or, where nothing is, whose kernels are judged")
    methods: dict[str, Any] = setting(METHODS, min_length=1, counts=True)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ExperimentSettings):
    """The settings of every experiment that trains networks."""

    schedule: Schedule = setting("training schedule of every network of the experiment")
    every: int = setting(
        "steps between evaluations; the first is before training, the last after it. "
        "0: after the last step only",
        unit="steps",
        ge=0,
    )


# Declarations


@dataclass(frozen=True)
class Metric:
    """A metric as figures and tables call it.

    Attributes:
        name: as in the column `metric` of the rows.
        label: what readers call it; `{part}` stands for the part that a value is of.
        unit: such as 'nats', or '' for a pure number; may hold `{part}` as well.
        better: 'higher' or 'lower' values are better, or '' for neither.
        averaged: whether tables hold its mean over seeds; what a figure pools otherwise is not.
    """

    name: str
    label: str
    unit: str = ""
    better: Better = ""
    averaged: bool = True

    def title(self, part: str = "") -> str:
        """Return label and unit, as on an axis; a kernel size '7x7' as 7×7."""
        text = f"{self.label} [{self.unit}]" if self.unit else self.label
        return text.replace("{part}", re.sub(r"^(\d+)x(\d+)$", r"\1×\2", part))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of an experiment's results.

    Attributes:
        suffix: what the name of its file adds to the experiment's; '' for the main figure.
        label: what a listing of the report adds to the experiment's title.
        caption: file in `workflow/report`, without its suffix `.rst`.
        draw: the name of a function of `dwp.report.figures` ('by_setting', 'by_step', …), or a function
            (results, plot, **options) -> Matplotlib figure of the experiment's own. It gets the
            tidy tables, `dwp.report.results.ExperimentResults`, and what all figures are drawn
            with, `dwp.report.figures.plotting.Plot`.
        options: further arguments of that function.
        requires: a boolean setting of the experiment without which there is no such figure.
    """

    suffix: str = ""
    label: str = ""
    caption: str = "experiment"
    draw: str | Callable[..., Any] = "by_setting"
    options: Mapping[str, Any] = field(default_factory=dict)
    requires: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of an experiment's results, beside those that every experiment has.

    Attributes:
        suffix, label, caption: as of a `Figure`.
        make: the name of a function of `dwp.report.tables`, or a function (results) -> data frame.
    """

    suffix: str
    label: str
    caption: str
    make: str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that the configuration, the plan, a job and the report need to know of an experiment.

    Attributes:
        title: as a heading.
        axis: name of the setting whose values are compared, a tuple in `settings`.
        axis_label: what figures call it.
        settings: class of its settings.
        method: class of the settings of one of its methods.
        metrics: those that its rows hold, the most important first.
        figures: what the report draws of it; by default the first metrics by setting.
        tables: beside the means over seeds, which the report has of every experiment.
        run: computes one method at one setting with one seed, from a `task.Task`; returns rows
            {step, metric, value} and, where a metric has several values, `part`.
    """

    title: str
    axis: str
    axis_label: str
    settings: type[ExperimentSettings]
    method: type[Method]
    metrics: tuple[Metric, ...]
    figures: tuple[Figure, ...] = (Figure(),)
    tables: tuple[Table, ...] = ()
    run: Callable[[Any], list[dict]]

    @property
    def trains(self) -> bool:
        """Return whether it trains networks, so that each setting is a job of its own."""
        return issubclass(self.settings, TrainingSettings)

    def metric(self, name: str) -> Metric:
        """Return what it calls a metric; one that it does not declare goes by its name."""
        return next((one for one in self.metrics if one.name == name), Metric(name, name.replace("_", " ")))


# Metrics that several experiments share.
ACCURACY = Metric("accuracy", "test accuracy", better="higher")
NLL = Metric("nll", "test NLL", "nats", better="lower")
TRAIN_NLL = Metric("train_nll", "training NLL", "nats", better="lower")


def known() -> list[str]:
    """Return the names of all experiments."""
    modules = {module.name for module in pkgutil.iter_modules(dwp.experiments.__path__)}
    return sorted(name for name in modules - {"base", "methods", "source_nets", "task"} if name[0] != "_")


def find(name: str) -> Experiment:
    """Return an experiment.

    Raises:
        InputError: there is none of that name.
    """
    if name not in known():
        raise unknown("experiments", name, known())
    return importlib.import_module(f"dwp.experiments.{name}").EXPERIMENT
