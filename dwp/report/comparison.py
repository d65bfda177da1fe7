"""Comparison of priors over kernels: densities, samples, and the results of methods that use one alone."""

from collections.abc import Iterable, Mapping

import pandas as pd

from dwp.experiments.methods import PriorUse
from dwp.priors.scores import COLUMNS, SAMPLES
from dwp.report.results import ExperimentResults, Results

KEY = ["size", "prior"]
DENSITY = ["log_density", "standard_error", "samples", "exact"]
SAMPLED = ["held_out_nearest", *(name for name in SAMPLES if name not in (*COLUMNS, "draw"))]


def metrics(results: ExperimentResults) -> list[str]:
    """Return the names of the metrics by which priors are compared: the first two of the experiment."""
    return [metric.name for metric in results.experiment.metrics[:2]]


def table(results: Results) -> pd.DataFrame:
    """Return densities, samples and uses of each prior side by side.

    Uses are those of the methods that use one prior alone (see `dwp.experiments.methods.only_use`) in the
    experiment `Results.compared`.

    Returns:
        A row for each prior and kernel size, or, if methods use the prior alone, for each of them and each
        setting. Sizes are descending, priors in the order of the configuration. Columns, NaN where unknown:

        - `size`, `prior`, `kind`.
        - `log_density`: mean over held-out kernels, in nats per kernel, with its `standard_error`; unless
          `exact`, a lower bound with the largest number of `samples` K.
        - `held_out_nearest`: `nearest` of held-out kernels; and of samples the measurements of
          `dwp.priors.scores.compare_samples`.
        - `use`, `method`, `setting`; for each of `metrics` its mean over `n` seeds at the end of training and
          their sample standard deviation, `<metric>_std`. Absent without an experiment to compare.
    """
    one = results.compared
    parts = [
        _densities(results.scores),
        _samples(results.samples),
        *([] if one is None else [_uses(one, results.uses)]),
    ]
    kinds = pd.concat([results.scores, results.samples]).reindex(columns=["prior", "kind"]).dropna()
    kinds = dict(zip(kinds["prior"], kinds["kind"], strict=True)) | dict(results.kinds)
    keys = pd.concat([part[KEY] for part in parts]).drop_duplicates()
    names = list(dict.fromkeys([*results.kinds, *kinds, *keys["prior"]]))
    keys = keys.sort_values(KEY, key=lambda key: -key if key.name == "size" else key.map(names.index))
    found = keys.assign(kind=keys["prior"].map(kinds))
    for part in parts:
        found = found.merge(part, how="left", on=KEY)
    types = {"samples": "Int64", "exact": "boolean", "n": "Int64"}
    return found.astype({name: kind for name, kind in types.items() if name in found})


def _densities(scores: pd.DataFrame) -> pd.DataFrame:
    rows = scores.reindex(columns=list(COLUMNS)).sort_values("samples").drop_duplicates(KEY, keep="last")
    return _part(rows.rename(columns={"mean": "log_density"}), DENSITY)


def _samples(samples: pd.DataFrame) -> pd.DataFrame:
    rows = samples.reindex(columns=list(SAMPLES))
    held_out = rows[rows["draw"] == "held_out"].set_index("size")["nearest"]
    drawn = rows[rows["draw"] == "sample"]
    return _part(drawn.assign(held_out_nearest=drawn["size"].map(held_out)), SAMPLED)


def _uses(results: ExperimentResults, uses: Mapping[str, PriorUse]) -> pd.DataFrame:
    names, rows = metrics(results), results.summary
    rows = rows[rows["metric"].isin(names) & (rows["part"] == "")]
    cells = rows.pivot(index=["method", "setting"], columns="metric", values=["mean", "std", "n"])
    cells = cells.reindex(columns=pd.MultiIndex.from_product([["mean", "std", "n"], names]))
    values = {
        key: cells[part, name] for name in names for key, part in ((name, "mean"), (f"{name}_std", "std"))
    }
    values["n"] = cells["n"].max(axis=1)
    used = [
        (size, uses[method].prior, uses[method].use, method)
        for method in rows["method"].unique()
        if method in uses
        for size in uses[method].sizes
    ]
    columns = ["use", "method", "setting", *values]
    found = pd.DataFrame(used, columns=[*KEY, *columns[:2]])
    return _part(found.merge(pd.DataFrame(values).reset_index(), on="method"), columns)


def _part(rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    return rows[[*KEY, *columns]].astype({"size": int})
