"""Pages of the report: HTML tables, each a function of the results."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from dwp.experiments.base import Metric
from dwp.report import aggregation, comparison
from dwp.report.findings import spread
from dwp.report.html import tables_page
from dwp.report.results import ExperimentResults, Results

NONE = "–"
MARKS = "Bold: the best mean; †: its difference from the best is within the paired 95 % interval."


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `mark` is 'best', 'tie', 'text' (aligned to the left) or ''."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a name for each row, and a heading with a note."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    heading: str = ""
    note: str = ""


def experiment(results: ExperimentResults) -> str:
    """Return a page with a table for each metric at the end of training, methods by settings.

    Costs are last. In brackets: the means that the paper published for the same data sets.
    """
    tables = metric_tables(results, lambda metric: metric.role != "cost")
    tables += metric_tables(results, lambda metric: metric.role == "cost")
    if len(results.trials):
        tables.append(tuned_settings(results))
    return tables_page(title=results.title, tables=tables, footnote=footnote(results))


def footnote(results: ExperimentResults) -> str:
    """Return the explanation of the tables of metrics."""
    seeds = sorted(set(results.summary["n"]))
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "0"
    text = f"Columns: {results.axis_label}. Mean ± standard deviation over {count} seeds"
    final = results.published[results.published["step"].isna()]
    return f"{text}{'; in brackets the paper’s mean' if len(final) else ''}. {MARKS}"


def metric_tables(results: ExperimentResults, wanted: Callable[[Metric], bool]) -> list[Table]:
    """Return a table for each wanted metric and part, methods by settings, the best of each column marked.

    Metrics are in the order of their declaration, those that are not declared last.
    """
    published = results.published[results.published["step"].isna()]
    paper = {(row.metric, row.method, row.setting): row.value for row in published.itertuples()}
    found = dict(iter(results.summary.groupby(["metric", "part"], sort=False)))
    tables = []
    for name, part in sorted(found, key=lambda key: results.metric_names.index(key[0])):
        metric, values = results.experiment.metric(name), found[name, part]
        if not wanted(metric):
            continue
        settings = sorted(values["setting"].unique())
        rows_of = dict(iter(_rows(results, name, part).groupby("setting")))
        marks = {setting: _marks(rows_of[setting], metric) for setting in settings}
        cells = {}
        for key, row in values.set_index(["method", "setting"]).iterrows():
            known = paper.get((name, *key))
            text = spread(row) + ("" if known is None else f" ({known:.3f})")
            cells[key] = Cell(text, marks[key[1]].get(key[0], ""))
        rows = [
            (results.method_name(method), [cells.get((method, setting), Cell(NONE)) for setting in settings])
            for method in values["method"].unique()
        ]
        note = ", ".join(filter(None, (name, part, f"{metric.better} is better" if metric.better else "")))
        columns = [f"{setting:g}" for setting in settings]
        tables.append(Table(columns, rows, metric.title(part), note))
    return tables


def _rows(results: ExperimentResults, metric: str, part: str = "") -> pd.DataFrame:
    rows = results.rows
    return rows[(rows["metric"] == metric) & (rows["part"] == part)]


def _marks(rows: pd.DataFrame, metric: Metric) -> dict[str, str]:
    """Return the marks of the best method and of those not significantly worse, in rows of one setting."""
    means = aggregation.summarise(rows).set_index("method")["mean"]
    means = means[np.isfinite(means)]
    if not metric.better or len(means) < 2:
        return {}
    best = means.idxmax() if metric.better == "higher" else means.idxmin()
    pairs = aggregation.paired(rows, [metric.name], best)
    ties = pairs.loc[pairs["difference"].abs() <= pairs["half_width"], "method"]
    return {**dict.fromkeys(ties, "tie"), best: "best"}


def tuned_settings(results: ExperimentResults) -> Table:
    """Return the table of the chosen settings of each method, and the runner-up."""
    rows, names = results.tuned, results.method_name
    metric = results.experiment.metric(rows["metric"].iloc[0])
    columns = ["trials", "settings", metric.name, "runner-up", f"its {metric.name}"]
    cells = [
        (
            names(row.method),
            [
                Cell(f"{row.trials}" + (f" of {row.combinations}" if row.combinations > row.trials else "")),
                Cell(row.settings, "text"),
                Cell(_with_error(row.mean, row.standard_error)),
                Cell(row.runner_up or NONE, "text"),
                Cell(_with_error(row.runner_up_mean, row.runner_up_standard_error)),
            ],
        )
        for row in rows.itertuples()
    ]
    others = [
        names(method) for method in results.rows["method"].unique() if method not in set(rows["method"])
    ]
    note = f"chosen on tasks made from the source data by {metric.name}"
    note += f", {metric.better} is better" if metric.better else ""
    note += ", mean ± standard error over tasks"
    note += f"; as configured: {', '.join(others)}" if others else ""
    return Table(columns, cells, "Tuned settings", note)


def _with_error(mean: float, error: float) -> str:
    return NONE if np.isnan(mean) else spread(pd.Series({"mean": mean, "std": error}))


def scores(results: Results) -> str:
    """Return a page that compares the priors: accuracies, log densities of held-out kernels, samples."""
    return tables_page(
        title="Comparison of the priors", tables=scores_tables(results), footnote=scores_footnote(results)
    )


def scores_tables(results: Results) -> list[Table]:
    """Return the tables that compare the priors, a summary first if methods use single priors."""
    return [*comparison_tables(results), scores_table(results), *samples_tables(results)]


def comparison_tables(results: Results) -> list[Table]:
    """Return the table of densities, energies and accuracies of the priors; none if no method uses one alone.

    Accuracies are at the smallest setting. A prior has one row; each of several methods that use it in the
    same way has one of its own below.
    """
    one, table = results.compared, comparison.table(results)
    if one is None or not table["method"].notna().any():
        return []
    setting = table["setting"].min()
    used = table[table["setting"] == setting].drop_duplicates("method")
    columns = _columns_by_size(table, "log_density", "log\N{NO-BREAK SPACE}p(w)", _density, max)
    columns |= _columns_by_size(table, "energy", "energy", lambda row: f"{row['energy']:.3f}", min)
    for use, rows in used.groupby("use", sort=False):
        for name in comparison.metrics(one):
            label = one.metric_title(name).removeprefix("test ")
            columns[f"{label} ({use})"] = _use_column(one, rows, name)
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    shown = []
    for prior in dict.fromkeys(table["prior"]):
        for method in ["", *(name for of_prior, name in keys if of_prior == prior and name)]:
            name = prior.replace("_", " ") + (f": {one.method_name(method)}" if method else "")
            empty = Cell("" if method else NONE)
            shown.append((name, [column.get((prior, method), empty) for column in columns.values()]))
    return [
        Table(list(columns), shown, "Density and accuracy of each prior", f"{one.axis_label} = {setting:g}")
    ]


Column: TypeAlias = dict[tuple[str, str], Cell]
"""Cells by prior, and by method in the rows of single methods."""


def _columns_by_size(
    table: pd.DataFrame, name: str, title: str, text: Callable[[dict], str], best: Callable
) -> dict[str, Column]:
    rows = table.drop_duplicates(comparison.KEY).dropna(subset=name)
    return {
        f"{title}, {size}×{size}": {
            (row["prior"], ""): Cell(text(row), "best" if row[name] == best(of_size[name]) else "")
            for row in of_size.to_dict("records")
        }
        for size, of_size in rows.groupby("size", sort=False)
    }


def _use_column(results: ExperimentResults, used: pd.DataFrame, name: str) -> Column:
    """Return a metric of methods that use priors in one way, at one setting; see `comparison.table`."""
    ran = _rows(results, name)
    ran = ran[ran["method"].isin(used["method"]) & ran["setting"].isin(used["setting"])]
    marks = _marks(ran, results.experiment.metric(name))
    single = used["method"].mask(~used["prior"].duplicated(keep=False), "")
    return {
        (row["prior"], method): Cell(_with_error(row[name], row[f"{name}_std"]), marks.get(row["method"], ""))
        for method, row in zip(single, used.to_dict("records"), strict=True)
    }


def _density(row: Mapping) -> str:
    """Return a log density, or a lower bound of one, with two decimals."""
    return f"{'' if row['exact'] else '≥ '}{row['log_density']:.2f}".replace("-", "−")


def scores_table(results: Results) -> Table:
    """Return the mean log density of held-out kernels: priors and K by kernel size."""
    rows = results.scores
    sizes, cells = list(rows["size"].unique()), {}
    for row in rows.itertuples():
        prior = row.prior.replace("_", " ")
        name = prior if row.exact else f"{prior}, K = {row.samples:,}"
        error = "" if np.isnan(row.standard_error) else f" ± {row.standard_error:.2f}"
        best = row.mean == rows.loc[rows["size"] == row.size, "mean"].max()
        text = f"{'' if row.exact else '≥ '}{row.mean:.2f}{error}"
        cells[name, row.size] = Cell(text.replace("-", "−"), "best" if best else "")
    names: Iterable[str] = dict.fromkeys(name for name, _ in cells)
    return Table(
        [f"{size}×{size}" for size in sizes],
        [(name, [cells.get((name, size), Cell(NONE)) for size in sizes]) for name in names],
        "Held-out kernels under each prior",
        "log p(w) in nats per kernel, higher is better",
    )


def samples_tables(results: Results) -> list[Table]:
    """Return a table for each kernel size: samples of each prior beside held-out kernels."""
    rows = results.samples
    sizes = dict.fromkeys(rows["size"]) if len(rows) else ()
    return [
        _samples_table(rows[rows["size"] == size], f"Samples of each prior, {size}×{size}") for size in sizes
    ]


def _samples_table(rows: pd.DataFrame, heading: str) -> Table:
    columns = {
        "nearest": ("nearest", ".3g"),
        "energy": ("energy", ".3f"),
        "p_value": ("p", ".3f"),
        "norm_50": ("norm", ".3g"),
        "low_frequencies": ("low frequencies", ".2f"),
        "bytes": ("bytes", ",.0f"),
        "fit_seconds": ("fit [s]", ",.1f"),
        "sample_seconds": ("4,096 samples [s]", ".2g"),
    }
    columns = {name: column for name, column in columns.items() if rows[name].notna().any()}
    cells = []
    for row in rows.to_dict("records"):
        name = row["prior"].replace("_", " ") if row["draw"] != "held_out" else "held-out kernels"
        name += ", without noise" if row["draw"] == "mean" else ""
        texts = [NONE if np.isnan(row[key]) else f"{row[key]:{form}}" for key, (_, form) in columns.items()]
        cells.append((name, [Cell(text) for text in texts]))
    titles = [title for title, _ in columns.values()]
    return Table(titles, cells, heading, "as close to held-out kernels as possible is best")


def scores_footnote(results: Results) -> str:
    """Return the explanation of the tables of scores."""
    counts = results.scores.groupby("size")["kernels"].first().items()
    kernels = ", ".join(f"{count:,} of {size}×{size}" for size, count in counts)
    return (
        f"log p(w) in nats per kernel, mean ± standard error over the same held-out kernels ({kernels}). "
        "≥ marks lower bounds, importance-weighted with K samples, which grow with K towards log p(w). "
        "Bold: the highest value or bound."
        + (
            " Samples: median distance to the nearest training kernel (below that of held-out kernels, a "
            "prior repeats them), energy coefficient against held-out kernels (0 to 1) with the p-value of a "
            "permutation test, median norm, and share of power at up to 1/4 cycle per pixel (white noise: "
            "0.20); of held-out kernels, against training kernels."
            if len(results.samples)
            else ""
        )
        + (
            " Accuracies: mean ± standard deviation over seeds of methods that use one prior alone, over the "
            "kernels of a Bayesian network (prior, with the posterior) or for the initial kernels of another "
            "(initialisation). †: the difference from the best is within the paired 95 % interval."
            if results.uses
            else ""
        )
    )
