"""Tidy tables: what experiments, source nets, kernels and priors came to.

Spreads are sample standard deviations over seeds (ddof = 1), NaN for a single seed.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dwp.errors import InputError
from dwp.experiments.base import COLUMNS
from dwp.kernels import store
from dwp.priors.base import Prior

CELL = ["experiment", "method", "setting", "metric"]
SAMPLES = 4096
"""Kernels drawn from a prior to measure the norms of its samples."""


def read(paths: Iterable[str | Path], columns: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Concatenate CSV tables, in the order given.

    Raises:
        InputError: a file is missing or cannot be parsed, or lacks one of `columns`.
    """
    tables = []
    for path in paths:
        try:
            table = pd.read_csv(path, float_precision="round_trip")
        except (OSError, ValueError) as error:
            raise InputError(f"table: {path} cannot be read ({error})") from None
        missing = [name for name in columns if name not in table]
        if missing:
            raise InputError(f"table: {path} has columns {', '.join(table)}; {', '.join(missing)} missing")
        # A run that recorded nothing has only a header, which would turn number columns into objects.
        if len(table):
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def last_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last step of each experiment, method, setting, seed and metric."""
    last = rows.groupby([*CELL, "seed"], sort=False)["step"].transform("max")
    return rows[rows["step"] == last].reset_index(drop=True)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, std and n over seeds of each metric at the end of training.

    Args:
        rows: columns experiment, method, setting, seed, step, metric, value.

    Returns:
        Columns experiment, method, setting, metric, mean, std, n; methods in the order in
        which they are first seen, settings ascending.
    """
    return _over_seeds(last_steps(_numbers(rows)), CELL)


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, std and n over seeds of each metric at each step, ordered as in `summarise`."""
    return _over_seeds(_numbers(rows), [*CELL, "step"])


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the reliability diagram of each method and setting, its bins pooled over seeds.

    Args:
        rows: as for `summarise`; of the metrics, those of `metrics.reliability` are read.

    Returns:
        Columns experiment, method, setting, bin, confidence, accuracy (of all images in the
        bin, whatever their seed), fraction (of all images), accuracy_std (sample deviation over
        the seeds that have images in the bin), n (of all seeds); ordered as in `summarise`.

    Raises:
        InputError: there are no such metrics.
    """
    found = last_steps(rows[rows["metric"].str.startswith("reliability/")])
    if not len(found):
        raise InputError("table: no metric reliability/<bin>/… among the rows")
    cell = ["experiment", "method", "setting"]
    parts = found["metric"].str.split("/", expand=True)
    found = found.assign(bin=parts[1].astype(int), metric=parts[2])
    bins = found.pivot(index=[*cell, "seed", "bin"], columns="metric", values="value").reset_index()
    bins["n"] = bins.groupby(cell)["seed"].transform("nunique")
    weighted = bins.assign(**{name: bins[name] * bins["fraction"] for name in ("confidence", "accuracy")})
    by = [*cell, "bin"]
    table = weighted.groupby([*by, "n"])[["confidence", "accuracy", "fraction"]].sum().reset_index()
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(table["fraction"], axis=0)
    table["fraction"] /= table["n"]
    table["accuracy_std"] = bins.groupby(by)["accuracy"].std().to_numpy()
    return _ordered(table[[*by, "confidence", "accuracy", "fraction", "accuracy_std", "n"]], by, rows)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    # A metric with a slash is a point of a curve, not a number of its own.
    return rows[~rows["metric"].str.contains("/", regex=False)]


def _over_seeds(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    table = rows.groupby(by, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    return _ordered(table.rename(columns={"count": "n"}), by, rows)


def _ordered(table: pd.DataFrame, by: list[str], rows: pd.DataFrame) -> pd.DataFrame:
    """Sort by columns: names in the order in which `rows` has them, numbers ascending."""
    seen = {name: rows[name].drop_duplicates().tolist() for name in ("experiment", "method", "metric")}

    def rank(column: pd.Series) -> pd.Series:
        return column.map(seen[column.name].index) if column.name in seen else column

    return table.sort_values(by, key=rank, kind="stable", ignore_index=True)


def page(summary: pd.DataFrame, published: pd.DataFrame, title: str) -> str:
    """Return an HTML page: a table of methods by settings for each metric, the paper's means in brackets."""
    paper = {
        (row.metric, row.method, row.setting): row.value
        for row in published.itertuples()
        if row.step != row.step
    }
    parts = []
    for metric, chosen in summary.groupby("metric", sort=False):
        cells = chosen.assign(text=[_text(row, paper) for row in chosen.itertuples()])
        table = cells.pivot(index="method", columns="setting", values="text").reindex(
            cells["method"].unique()
        )
        table.columns = [f"{setting:g}" for setting in table.columns]
        parts.append(f"<h2>{metric}</h2>{table.rename_axis(None).fillna('–').to_html(border=0)}")
    seeds = sorted(set(summary["n"]))
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "0"
    note = "; in brackets the paper's mean" if paper else ""
    parts.append(f"<p>Mean ± standard deviation over {count} seeds{note}.</p>")
    return _document(title, parts)


def scores_page(scores: pd.DataFrame) -> str:
    """Return an HTML page: mean log density of held-out kernels, priors and K by kernel sizes.

    Args:
        scores: rows of `dwp.priors.scores.score`, of one size or several.
    """
    text = [
        f"{'' if row.exact else '≥ '}{row.mean:.2f}"
        + ("" if np.isnan(row.standard_error) else f" ± {row.standard_error:.2f}")
        for row in scores.itertuples()
    ]
    label = [f"{row.prior}" + ("" if row.exact else f", K = {row.samples:,}") for row in scores.itertuples()]
    cells = scores.assign(text=text, label=label)
    table = cells.pivot(index="label", columns="size", values="text")
    table = table.reindex(index=cells["label"].unique(), columns=cells["size"].unique())
    table.columns = [f"{size}×{size}" for size in table.columns]
    kernels = ", ".join(
        f"{n:,} of {size}×{size}" for size, n in scores.groupby("size")["kernels"].first().items()
    )
    note = (
        f"<p>log p(w) in nats per kernel, mean ± standard error over the same held-out kernels ({kernels}). "
        "≥ marks lower bounds, importance-weighted with K samples, which grow with K towards log p(w).</p>"
    )
    title = "Held-out kernels under each prior"
    return _document(title, [table.rename_axis(None).fillna("–").to_html(border=0), note])


def _document(title: str, parts: list[str]) -> str:
    head = (
        f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
    )
    return "\n".join([head, *parts]) + "\n"


_STYLE = (
    "body{font:15px sans-serif;margin:2em}h1{font-size:1.3em}h2{font-size:1.05em}"
    "table{border-collapse:collapse}"
    "th,td{padding:.3em .9em;text-align:right;border-bottom:1px solid #ddd}th:first-child{text-align:left}"
)


def _text(row: tuple, paper: Mapping) -> str:
    spread = "" if np.isnan(row.std) else f" ± {_number(row.std)}"
    value = paper.get((row.metric, row.method, row.setting))
    return f"{_number(row.mean)}{spread}" + ("" if value is None else f" ({value:.3f})")


def _number(value: float) -> str:
    # Operations are counted in billions.
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3e}"


def source_summary(nets: pd.DataFrame) -> pd.DataFrame:
    """Return rows {metric, mean, std, min, max, n} over source nets [net, seed, accuracy, nll]."""
    table = nets[["accuracy", "nll"]].agg(["mean", "std", "min", "max", "count"]).T
    return table.rename(columns={"count": "n"}).astype({"n": int}).rename_axis("metric").reset_index()


def kernels_table(stores: Mapping[int, str | Path]) -> pd.DataFrame:
    """Return one row for each kernel size: the modes of the norms, what was pruned and kept."""
    rows = []
    for size, path in stores.items():
        pruned, norms = store.pruning(path), store.kept_norms(path)
        kept = np.concatenate(list(norms.values()))
        names = ("threshold", "rule", "modes", "before", "after", "duplicates")
        rows.append(
            {"size": size}
            | {name: getattr(pruned, name) for name in names}
            | {split: len(values) for split, values in norms.items()}
            | {"median_norm": float(np.median(kept)), "smallest_kept_norm": float(kept.min())}
        )
    return pd.DataFrame(rows)


def priors_table(
    priors: Mapping[str, Mapping[int, Prior]],
    histories: Mapping[str, Mapping[int, pd.DataFrame]],
    stores: Mapping[int, str | Path],
) -> pd.DataFrame:
    """Return one row for each fitted prior and size.

    Held-out metrics are those of the step that was kept, in nats per kernel (NaN where there are none):
    log_prob, the log density of kinds that have it; elbo, and its terms log_likelihood,
    E_r log p(w|z), and kl, of those that bound it. The median norms of samples and of samples
    without the last layer of noise stand beside that of the test kernels: a prior whose
    samples are much smaller has not learned its kernels.
    """
    rows = []
    for name, sizes in priors.items():
        for size, prior in sizes.items():
            history = histories[name][size]
            history = history[history["step"] <= kept_step(history)]
            kept = history.sort_values("step", kind="stable").groupby("metric")["value"].last()
            row = {"name": name, "kind": prior.kind, "size": size}
            # Kinds that come later may be judged by something else; it follows the usual ones.
            wanted = dict.fromkeys(["log_prob", "elbo", "log_likelihood", "kl", *kept.index])
            row |= {metric: kept.get(metric, float("nan")) for metric in wanted if "train_" not in metric}
            row["test_norm"] = median_norm(store.load(stores[size], "test"))
            row["sample_norm"] = median_norm(draw(prior, SAMPLES))
            row["mean_sample_norm"] = median_norm(draw(prior, SAMPLES, mean=True))
            rows.append(row)
    return pd.DataFrame(rows)


def kept_step(history: pd.DataFrame) -> float:
    """Return the step whose model a fit kept: the best on validation kernels, or the last (NaN of none)."""
    validation = history[history["metric"].str.startswith("validation_")]
    return history["step"].max() if validation.empty else history["step"][validation["value"].idxmax()]


def draw(prior: Prior, n: int, *, mean: bool = False) -> torch.Tensor | None:
    """Draw n kernels [n, 1, k, k], the same each time; None from a prior that cannot be sampled from."""
    try:
        return prior.sample(n, torch.Generator().manual_seed(0), mean=mean)
    except InputError:
        return None


def median_norm(w: torch.Tensor | None) -> float:
    """Return the median Euclidean norm of kernels [n, 1, k, k]; NaN for none."""
    return float("nan") if w is None else float(np.median(store.norms(w.cpu().numpy())))
