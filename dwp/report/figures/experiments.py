"""Figures of any experiment: metrics by setting, metrics by step."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from dwp.report.figures import plotting

FIRST = ("accuracy", "nll", "ece")


def by_setting(
    summary: pd.DataFrame,
    paper: pd.DataFrame,
    style: dict,
    *,
    title: str,
    axis: str,
    panels: int = 3,
    change_from: float | None = None,
) -> Figure:
    """Plot metrics at the end of training against the setting: means over seeds, bars of one std.

    Args:
        summary: one experiment's rows of `tables.summarise`.
        paper: `paper.published`, drawn hollow and dashed in the method's colour; may be empty.
        axis: what the setting is. With a single setting, methods stand on the axis instead.
        panels: at most so many metrics: accuracy, NLL and ECE where there are any, then others.
        change_from: a setting; what is shown of each method is the change from its mean there.
    """
    settings = sorted(summary["setting"].unique())
    changes = change_from is not None and len(settings) > 1
    if changes:
        at = summary[summary["setting"] == change_from].set_index(["method", "metric"])["mean"]
        there = at.reindex(pd.MultiIndex.from_frame(summary[["method", "metric"]])).to_numpy()
        summary = summary.assign(mean=summary["mean"] - there)
    found = summary["metric"].drop_duplicates().tolist()
    metrics = [*(name for name in FIRST if name in found), *(name for name in found if name not in FIRST)][
        :panels
    ]
    paper = paper[paper["step"].isna()]
    figure, axes = plotting.canvas(1, max(1, len(metrics)), 3.9, 3.9, first=1.4)
    look = plotting.looks(style, summary["method"])
    for ax, metric in zip(axes.flat, metrics, strict=False):
        chosen, published = (table[table["metric"] == metric] for table in (summary, paper))
        if len(settings) == 1:
            published = published[published["setting"] == settings[0]]
            plotting.dots(ax, chosen, published, look)
            plotting.label(ax, style, x=plotting.name(metric))
        else:
            plotting.lines(ax, chosen, published, look, settings)
            plotting.label(ax, style, x=axis, y=f"{'change of ' * changes}{plotting.name(metric)}")
            if changes:
                plotting.symmetric_log(ax, chosen["mean"])
    at = f", {axis} = {plotting.number(settings[0])}" if len(settings) == 1 else ""
    at = f", change from {axis} = {plotting.number(change_from)}" if changes else at
    plotting.title(figure, style, f"{title}{at} (mean ± std of {plotting.count(summary)})")
    plotting.legend(figure, style, look, paper, named=len(settings) > 1)
    return figure


def by_step(
    curves: pd.DataFrame, paper: pd.DataFrame, style: dict, *, title: str, axis: str, metrics: Sequence[str]
) -> Figure:
    """Plot metrics by training step: means over seeds in bands of one std, for each setting.

    Args:
        curves: one experiment's rows of `tables.curves`.
        paper: `paper.published`; its values by step are drawn hollow, its final ones are not.
        axis: what the setting is; each setting has its column of panels.
        metrics: those to show, where there are any.
    """
    metrics = [name for name in metrics if name in set(curves["metric"])]
    settings = sorted(curves["setting"].unique())
    paper = paper[paper["setting"].isin(settings) & (paper["step"] <= curves["step"].max())]
    cells = [(metric, setting) for metric in metrics for setting in settings]
    columns = len(settings) if len(settings) > 1 else max(1, len(metrics))
    figure, axes = plotting.canvas(max(1, math.ceil(len(cells) / columns)), columns, 4.6, 3.4)
    look = plotting.looks(style, curves["method"])
    for ax, (metric, setting) in zip(axes.flat, cells, strict=False):
        panel = curves[(curves["metric"] == metric) & (curves["setting"] == setting)]
        for method, rows in panel.groupby("method", sort=False):
            line = {key: look[method][key] for key in ("color", "linestyle")}
            # A single step makes no line.
            ax.plot(rows["step"], rows["mean"], **line, marker="o" if len(rows) == 1 else "")
            low, high = (rows["mean"] + sign * rows["std"].fillna(0) for sign in (-1, 1))
            ax.fill_between(rows["step"], low, high, color=look[method]["color"], alpha=0.15, linewidth=0)
        published = paper[(paper["metric"] == metric) & (paper["setting"] == setting)]
        for method, rows in published.groupby("method", sort=False):
            ax.plot(rows["step"], rows["value"], **plotting.hollow(look, method))
        # What a hardly trained network scores would squeeze everything after it.
        trained = panel[panel["step"] >= 0.1 * panel["step"].max()] if metric != "kl" else panel
        ax.set_xlim(left=0)
        bands = [trained["mean"] + sign * trained["std"].fillna(0) for sign in (-1, 1)]
        plotting.limit(ax, [*bands, published["value"]])
        at = f"{axis} = {plotting.number(setting)}" if len(settings) > 1 else ""
        plotting.label(ax, style, x="training step", y=plotting.name(metric), title=at)
    at = f", {axis} = {plotting.number(settings[0])}" if len(settings) == 1 else ""
    plotting.title(figure, style, f"{title}{at} (mean ± std of {plotting.count(curves)})")
    plotting.legend(figure, style, look, paper, markers=False)
    return figure
