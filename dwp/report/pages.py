"""Pages of the report: HTML tables, each a function of the results."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dwp.experiments.base import Metric
from dwp.report import aggregation
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
        marks = {setting: _marks(results, metric, part, setting) for setting in settings}
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


def _marks(results: ExperimentResults, metric: Metric, part: str, setting: float) -> dict[str, str]:
    """Return the mark of each method that is the best at a setting, or not significantly worse."""
    rows = results.rows
    rows = rows[(rows["metric"] == metric.name) & (rows["part"] == part) & (rows["setting"] == setting)]
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
    """Return a page with the log density of held-out kernels under each prior, and with its samples."""
    table, note = scores_table(results), scores_footnote(results)
    tables = [replace(table, heading=""), *samples_tables(results)]
    return tables_page(title=table.heading, tables=tables, footnote=note)


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
    )
