"""Tidy tables over seeds: means and spreads by setting and by step, reliability diagrams.

Spreads are sample standard deviations over seeds (ddof = 1), NaN for a single seed.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from dwp.errors import InputError
from dwp.experiments._tuning import describe
from dwp.experiments.base import COLUMNS, Experiment
from dwp.experiments.methods import with_names

CELL = ["experiment", "method", "setting", "metric", "part"]

TRIALS = (
    *("experiment", "method", "settings", "version", "combinations", "metric"),
    *("mean", "standard_error", "n", "chosen"),
)
"""Columns of the trials of a tuned method.

`settings` is JSON, `version` that of the trial's rows, `combinations` the number of those in the method's
space. `mean` and `standard_error` of the metric are over n tasks; NaN if one of them has diverged.
"""


def read(paths: Iterable[str | Path], columns: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Concatenate CSV tables, in the order given.

    Raises:
        InputError: a file is missing or cannot be parsed, or lacks one of `columns`.
    """
    tables = []
    for path in paths:
        try:
            table = pd.read_csv(path, float_precision="round_trip", dtype={"part": str})
        except (OSError, ValueError) as error:
            raise InputError(f"table: {path} cannot be read ({error})") from None
        missing = [name for name in columns if name not in table]
        if missing:
            raise InputError(f"table: {path} has columns {', '.join(table)}; {', '.join(missing)} missing")
        # A table with only a header would turn numeric columns into object columns.
        if len(table):
            tables.append(table.fillna({"part": ""}) if "part" in table else table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def scores_by_name(table: pd.DataFrame, roles: Mapping[int, Mapping[str, str]]) -> pd.DataFrame:
    """Return scores of priors under the names of the configuration instead of their roles, in its order.

    Args:
        table: columns size and prior among others.
        roles: role of each prior by kernel size and name; those of other sizes stay as they are.
    """
    parts = []
    for size, of_size in table.groupby("size", sort=False):
        if size not in roles:
            parts.append(of_size)
            continue
        parts.append(of_size[of_size["prior"].isna()])  # the held-out kernels
        parts += [of_size[of_size["prior"] == role].assign(prior=name) for name, role in roles[size].items()]
    return pd.concat(parts, ignore_index=True) if parts else table


def trials_by_name(trials: pd.DataFrame, roles: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Return trials whose settings have the names of priors in the configuration instead of their roles.

    Args:
        trials: columns `TRIALS`.
        roles: role of each prior by method and name.
    """

    def named(row: pd.Series) -> str:
        names = {role: name for name, role in roles.get(row["method"], {}).items()}
        return json.dumps(with_names(json.loads(row["settings"]), names))

    return trials.assign(settings=trials.apply(named, axis=1)) if len(trials) else trials


def last_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last step of each experiment, method, setting, seed, metric and part."""
    last = rows.groupby([*CELL, "seed"], sort=False)["step"].transform("max")
    return rows[rows["step"] == last].reset_index(drop=True)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, std and n over seeds of each metric at the end of training.

    Args:
        rows: columns `dwp.experiments.base.COLUMNS`.

    Returns:
        Columns experiment, method, setting, metric, part, mean, std, n; methods in order of first
        appearance, settings ascending.
    """
    return _over_seeds(last_steps(rows), CELL)


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, std and n over seeds of each metric at each step, ordered as in `summarise`."""
    return _over_seeds(rows, [*CELL, "step"])


def paired(rows: pd.DataFrame, metrics: Iterable[str], reference: str | None = None) -> pd.DataFrame:
    """Return differences of the other methods from a reference at the end of training, paired by seed.

    Args:
        rows: as for `summarise`.
        metrics: metrics to compare.
        reference: the method to compare with; None: that of the first row.

    Returns:
        Columns experiment, metric, part, setting, method, difference (mean over the seeds that
        both methods have, of the method minus the reference), half_width (of its 95 % interval by
        Student's t; NaN for a single seed), n; ordered as in `summarise`.
    """
    last = last_steps(rows[rows["metric"].isin(list(metrics))])
    key = ["experiment", "metric", "part", "setting", "seed"]
    is_reference = last["method"] == (reference or last["method"].iloc[0])
    both = last[~is_reference].merge(
        last.loc[is_reference, [*key, "value"]], on=key, suffixes=("", "_reference")
    )
    both["difference"] = both["value"] - both["value_reference"]
    by = [*key[:-1], "method"]
    table = both.groupby(by, sort=False)["difference"].agg(["mean", "std", "count"]).reset_index()
    table = table.rename(columns={"mean": "difference", "count": "n"})
    table["half_width"] = student_t.ppf(0.975, table["n"] - 1) * table["std"] / np.sqrt(table["n"])
    return _ordered(table[[*by, "difference", "half_width", "n"]], by, rows)


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the reliability diagram of each method and setting, its bins pooled over seeds.

    Args:
        rows: as for `summarise`, with the metrics bin_confidence, bin_accuracy and bin_fraction,
            whose `part` is the index of the bin, see `metrics.reliability`.

    Returns:
        Columns experiment, method, setting, bin, confidence, accuracy (of all images in the
        bin, over all seeds), fraction (of all images), accuracy_std (sample standard deviation over
        the seeds with images in the bin), n (number of all seeds); ordered as in `summarise`.

    Raises:
        InputError: the rows lack these metrics.
    """
    metrics = {"bin_confidence": "confidence", "bin_accuracy": "accuracy", "bin_fraction": "fraction"}
    diagrams = last_steps(rows[rows["metric"].isin(metrics)])
    if not len(diagrams):
        raise InputError(f"table: the rows have no metrics {', '.join(metrics)}")
    cell = ["experiment", "method", "setting"]
    diagrams = diagrams.assign(bin=diagrams["part"].astype(int), metric=diagrams["metric"].map(metrics))
    bins = diagrams.pivot(index=[*cell, "seed", "bin"], columns="metric", values="value").reset_index()
    bins["n"] = bins.groupby(cell)["seed"].transform("nunique")
    weighted = bins.assign(**{name: bins[name] * bins["fraction"] for name in ("confidence", "accuracy")})
    by = [*cell, "bin"]
    table = weighted.groupby([*by, "n"])[["confidence", "accuracy", "fraction"]].sum().reset_index()
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(table["fraction"], axis=0)
    table["fraction"] /= table["n"]
    table["accuracy_std"] = bins.groupby(by)["accuracy"].std().to_numpy()
    return _ordered(table[[*by, "confidence", "accuracy", "fraction", "accuracy_std", "n"]], by, rows)


def tuned(trials: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Return one row for each tuned method: its chosen settings and the runner-up.

    Args:
        trials: columns `TRIALS`.
        experiment: the declaration of the experiment.

    Returns:
        Columns method, trials, combinations, settings, metric, mean, standard_error, n, runner_up,
        runner_up_mean, runner_up_standard_error; methods in order of first appearance. Without a
        second trial that has a finite mean, the runner-up is empty and NaN.
    """
    rows = []
    for method, own in trials.groupby("method", sort=False):
        (best,) = own[own["chosen"]].itertuples()
        finite = own[np.isfinite(own["mean"])].drop(best.Index)
        higher = experiment.metric(best.metric).better == "higher"
        rest = finite.sort_values("mean", ascending=not higher, kind="stable").head(1)
        (second,) = rest.itertuples() if len(rest) else (None,)
        nothing = float("nan")
        rows.append(
            {
                "method": method,
                "trials": len(own),
                "combinations": best.combinations,
                "settings": describe(json.loads(best.settings)),
                **{name: getattr(best, name) for name in ("metric", "mean", "standard_error", "n")},
                "runner_up": describe(json.loads(second.settings)) if second else "",
                "runner_up_mean": second.mean if second else nothing,
                "runner_up_standard_error": second.standard_error if second else nothing,
            }
        )
    return pd.DataFrame(rows)


def _over_seeds(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    table = rows.groupby(by, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    return _ordered(table.rename(columns={"count": "n"}), by, rows)


def _ordered(table: pd.DataFrame, by: list[str], rows: pd.DataFrame) -> pd.DataFrame:
    """Sort by columns: names in order of first appearance in `rows`, numbers ascending."""
    names = ("experiment", "method", "metric", "part")
    seen = {name: rows[name].drop_duplicates().tolist() for name in names}

    def rank(column: pd.Series) -> pd.Series:
        return column.map(seen[column.name].index) if column.name in seen else column

    return table.sort_values(by, key=rank, kind="stable", ignore_index=True)
