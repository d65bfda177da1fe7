"""Declaration of experiments: settings, methods, metrics and figures.

An experiment compares methods on the target data set, or on a data set of text. It is a module
`dwp/experiments/<name>.py` that defines `EXPERIMENT`; no other file changes. Declarations import neither
PyTorch nor pandas, so that a run can be planned without them; `run` imports what it needs.
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

`setting` is a value of the experiment's axis, and `step` the training step. If a metric has several
values at one step, `part` distinguishes them: a kernel size or a bin of confidence; otherwise it is empty.
"""

Names = str | dict[str, str]
"""One name for all convolutions, or names by kernel size (`5x5`) or layer (`conv2`)."""

Count = Annotated[int, Bounds(ge=1)]
Factor = Annotated[float, Bounds(gt=0)]
FromZero = Annotated[float, Bounds(ge=0)]
METHODS = "methods to compare, by name"
"""Description of an experiment's methods."""

Better = Literal["higher", "lower", ""]

Space = dict[str, tuple[Any, ...] | None]
"""Values to choose from, by name of a setting of the method, its schedule or its experiment; null: none."""


# Settings


@dataclass(frozen=True, kw_only=True)
class Init:
    """Initialisation of a method's kernels."""

    origin: Names = setting(
        "origin of the initial kernels: xavier, he, the name of a prior, or pretrained (a source network, "
        "whose architecture replaces that of the experiment); or origins by kernel size or layer, such as "
        "{7x7: vae, conv2: he}",
        alias="from",
    )
    draw: Literal["mean", "sample"] = setting(
        "draw from a prior: sample, or mean (without the decoder's noise)", "sample"
    )
    control: Literal["none", "shuffled", "noise"] = setting(
        "control that keeps the scale of kernels drawn from a prior and removes their structure: shuffled "
        "(the weights of each kernel permuted), or noise (white noise with the norm of each kernel)",
        "none",
    )


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings common to all methods."""

    title: str | None = setting(
        "display name in figures and on pages; null: its key, with spaces for underscores", None
    )


@dataclass(frozen=True, kw_only=True)
class KernelMethod(Method):
    """Settings common to all methods with convolutional networks."""

    pretrained: ClassVar[bool] = True
    """Whether a method may start from a source network."""

    init: Init = setting("initial kernels of the network")

    @property
    def is_bayesian(self) -> bool:
        """Return whether the method puts a prior on its kernels."""
        return getattr(self, "posterior", "none") != "none"


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """Settings of every experiment.

    An experiment adds its own, including the tuple of values of its axis, and declares the class
    of its methods, `methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)`.
    """

    seeds: int = setting("number of seeds: 0 to seeds - 1", ge=1, counts=True)
    shard: int = setting("seeds per job", ge=1, counts=True)
    network: Network = setting("network to train, or whose kernels experiments on the KL evaluate")
    methods: dict[str, Any] = setting(METHODS, min_length=1, counts=True)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ExperimentSettings):
    """Settings of every experiment that trains networks."""

    schedule: Schedule = setting("training schedule of every network of the experiment")
    every: int = setting(
        "steps between evaluations, with one before and one after training; 0: only after training",
        unit="steps",
        ge=0,
    )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Choice of each method's settings on tasks made from the source data.

    An experiment with such a choice adds the values of its axis here, and has `tuning: Tuning | None`
    among its settings and `space: Space | None` among those of a method.
    """

    trials: int = setting(
        "trials of each method: all combinations of the values in its space, or, if there are more, "
        "so many drawn at random",
        ge=1,
    )
    seeds: int = setting("number of seeds of each trial", ge=1)
    metric: str = setting(
        "metric by which the best trial is chosen, at the end of training, averaged over seeds and settings"
    )
    space: Space | None = setting(
        "values to try for every method, by setting of the method, the schedule or the experiment, "
        "such as {lr: [0.001, 0.01]}; a method may add its own",
        None,
    )


# Declarations


@dataclass(frozen=True)
class Metric:
    """A metric, with its label in figures and tables.

    Attributes:
        name: name in the column `metric` of the rows.
        label: display name; `{part}` is replaced by the value's `part`.
        unit: such as 'nats', or '' for a pure number; may contain `{part}` as well.
        better: whether 'higher' or 'lower' values are better, or '' for neither.
        averaged: whether tables show its mean over seeds; False if a figure pools it in another way.
        role: 'result'; 'training' for the course of training; 'cost' of training or prediction. The page
            of findings shows results, and costs in a section below them.
    """

    name: str
    label: str
    unit: str = ""
    better: Better = ""
    averaged: bool = True
    role: Literal["result", "training", "cost"] = "result"

    def title(self, part: str = "") -> str:
        """Return label and unit, as on an axis; a kernel size '7x7' is written 7×7."""
        text = f"{self.label} [{self.unit}]" if self.unit else self.label
        return text.replace("{part}", re.sub(r"^(\d+)x(\d+)$", r"\1×\2", part))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of an experiment's results.

    Attributes:
        suffix: suffix of the file name, after the experiment's name; '' for the main figure.
        label: suffix of the experiment's title in listings of the report.
        caption: file in `workflow/report`, without its suffix `.rst`.
        draw: the name of a function of `dwp.report.figures` ('by_setting', 'by_step', …), or another
            function (results, plot, **options) -> Matplotlib figure. Its arguments are the tidy
            tables, `dwp.report.results.ExperimentResults`, and the style shared by all figures,
            `dwp.report.figures.plotting.Plot`.
        options: further arguments of that function.
        requires: a boolean setting of the experiment that enables the figure.
    """

    suffix: str = ""
    label: str = ""
    caption: str = "experiment"
    draw: str | Callable[..., Any] = "by_setting"
    options: Mapping[str, Any] = field(default_factory=dict)
    requires: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of an experiment's results, in addition to those of every experiment.

    Attributes:
        suffix, label, caption: as in `Figure`.
        make: the name of a function of `dwp.report.tables`, or a function (results) -> data frame.
    """

    suffix: str
    label: str
    caption: str
    make: str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment, declared for the configuration, the plan, the jobs and the report.

    Attributes:
        title: heading in the report.
        axis: name of the setting whose values are compared, a tuple in `settings`.
        axis_label: label of the axis in figures.
        settings: class of its settings.
        method: class of the settings of a method.
        metrics: metrics in its rows, the most important first.
        figures: figures in the report; by default the first metrics by setting.
        animations: animated figures; their functions return Matplotlib figures of equal size, the frames.
        tables: tables in the report, in addition to the means over seeds.
        reads: what its data set is: `data.target`, images, or `data.text`.
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
    animations: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    reads: Literal["target", "text"] = "target"
    run: Callable[[Any], list[dict]]

    @property
    def trains(self) -> bool:
        """Return whether it trains networks, so that each setting is a separate job."""
        return issubclass(self.settings, TrainingSettings)

    def metric(self, name: str) -> Metric:
        """Return a metric by name; an undeclared one is labelled with its name."""
        return next((one for one in self.metrics if one.name == name), Metric(name, name.replace("_", " ")))


# Metrics shared by several experiments.
ACCURACY = Metric("accuracy", "test accuracy", better="higher")
NLL = Metric("nll", "test NLL", "nats", better="lower")
TRAIN_NLL = Metric("train_nll", "training NLL", "nats", better="lower", role="training")


def known() -> list[str]:
    """Return the names of all experiments."""
    modules = {module.name for module in pkgutil.iter_modules(dwp.experiments.__path__)}
    return sorted(name for name in modules - {"base", "methods", "source_nets", "task"} if name[0] != "_")


def find(name: str) -> Experiment:
    """Return an experiment.

    Raises:
        InputError: there is no experiment of that name.
    """
    if name not in known():
        raise unknown("experiments", name, known())
    return importlib.import_module(f"dwp.experiments.{name}").EXPERIMENT
