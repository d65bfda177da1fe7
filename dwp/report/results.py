"""Results that the report is made from: tidy tables of the experiments, kernels, priors and scores."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import Tensor

from dwp.experiments.base import Experiment
from dwp.experiments.methods import PriorUse
from dwp.kernels import store
from dwp.priors.base import Prior
from dwp.report import aggregation
from dwp.report.catalogue import compared


@dataclass(frozen=True, eq=False)
class ExperimentResults:
    """The results of one experiment, the input of its figures and tables.

    Attributes:
        name: name of the experiment.
        experiment: its declaration.
        rows: all rows of its cells, columns `dwp.experiments.base.COLUMNS`.
        published: the paper's numbers, columns `published.COLUMNS`; empty for other data sets.
        trials: trials of its tuned methods, columns `aggregation.TRIALS`; empty if none is tuned.
        titles: display names of its methods, see `method_name`.
        learned: its methods with a learned prior, as prior or as initialisation.
    """

    name: str
    experiment: Experiment
    rows: pd.DataFrame
    published: pd.DataFrame
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)
    titles: Mapping[str, str] = field(default_factory=dict)
    learned: Collection[str] = ()

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Return mean, std and n over seeds at the end of training; see `aggregation.summarise`."""
        return aggregation.summarise(self.averaged)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Return mean, std and n over seeds by step; see `aggregation.curves`."""
        return aggregation.curves(self.averaged)

    @property
    def averaged(self) -> pd.DataFrame:
        """Return the rows of metrics whose mean over seeds is meaningful."""
        others = [metric.name for metric in self.experiment.metrics if not metric.averaged]
        return self.rows[~self.rows["metric"].isin(others)]

    @cached_property
    def tuned(self) -> pd.DataFrame:
        """Return the chosen settings of each tuned method; see `aggregation.tuned`."""
        return aggregation.tuned(self.trials, self.experiment)

    @property
    def title(self) -> str:
        """Return the experiment's title."""
        return self.experiment.title

    @property
    def axis_label(self) -> str:
        """Return the label of the setting."""
        return self.experiment.axis_label

    @property
    def metric_names(self) -> list[str]:
        """Return the names of the metrics: those declared, in that order, then any others in the rows."""
        return list(
            dict.fromkeys([*(metric.name for metric in self.experiment.metrics), *self.rows["metric"]])
        )

    def method_name(self, method: str) -> str:
        """Return the display name of a method: its title, or its key with spaces for underscores."""
        return self.titles.get(method, method.replace("_", " "))

    def metric_title(self, name: str, part: str = "") -> str:
        """Return the axis label of a metric, with its unit."""
        return self.experiment.metric(name).title(part)


@dataclass(frozen=True, eq=False)
class Results:
    """Everything of a run that the report shows.

    Attributes:
        experiments: results by name of the experiment.
        stores: kernel stores, see `dwp.kernels.store`, by size.
        priors: fitted priors by name and size.
        histories: their training histories by name and size, columns step, metric, value.
        published: the paper's numbers on priors; see `published.published`.
        nets: source networks, columns net, seed, accuracy, nll; empty if none were trained.
        scores: rows of `dwp.priors.scores.score`; empty if no prior has a density.
        samples: rows of `dwp.priors.scores.compare_samples`; empty if there are no scores.
        kinds: kind of each prior in `scores` or `uses`, by name, in the order of the configuration.
        uses: how methods of `compared` that use one prior alone use it.
        source: name of the data set of the kernels; '' if unknown.
        target: name of the data set of the experiments; '' if unknown.
    """

    experiments: Mapping[str, ExperimentResults]
    stores: Mapping[int, str | Path]
    priors: Mapping[str, Mapping[int, Prior]]
    histories: Mapping[str, Mapping[int, pd.DataFrame]]
    published: pd.DataFrame
    nets: pd.DataFrame = field(default_factory=pd.DataFrame)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)
    kinds: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[str, PriorUse] = field(default_factory=dict)
    source: str = ""
    target: str = ""

    @property
    def compared(self) -> ExperimentResults | None:
        """Return the results that the findings are about; see `catalogue.compared`."""
        name = compared(self.experiments)
        return self.experiments[name] if name else None

    def learned(self, size: int) -> Tensor:
        """Return the held-out kernels of a size, [n, 1, size, size]."""
        return store.load(self.stores[size], "test")

    def priors_of(self, size: int) -> dict[str, Prior]:
        """Return the fitted priors of a kernel size by name."""
        return {name: sizes[size] for name, sizes in self.priors.items() if size in sizes}
