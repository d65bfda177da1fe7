"""Figures of any experiment: metrics by setting and by training step."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults

PANELS = 3
"""Maximum number of metrics in a figure that names none."""


def by_setting(
    results: ExperimentResults,
    plot: Plot,
    *,
    metrics: Sequence[str] = (),
    about: str = "",
    change_from: Callable[[Iterable[float]], float] | None = None,
    chance: float | None = None,
) -> Figure:
    """Plot metrics at the end of training against the setting: means over seeds, bars of one std.

    The paper's values are hollow and dashed in the method's colour. With a single setting, there is one
    row for each method.

    Args:
        metrics: one panel for each metric and each of its parts; default: the first of the experiment.
        about: text to add to the title.
        change_from: chooses a reference setting; each method is then drawn as the change from its
            mean at that setting.
        chance: value of a random guess, drawn as a dashed line.
    """
    summary, axis = results.summary, results.axis_label
    settings = sorted(summary["setting"].unique())
    reference = change_from(settings) if change_from and len(settings) > 1 else None
    if reference is not None:
        key = ["method", "metric", "part"]
        at = summary[summary["setting"] == reference].set_index(key)["mean"]
        there = at.reindex(pd.MultiIndex.from_frame(summary[key])).to_numpy()
        summary = summary.assign(mean=summary["mean"] - there)
    panels = _panels(summary, metrics) if metrics else _panels(summary, results.metric_names)[:PANELS]
    paper = results.published[results.published["step"].isna()]
    paper = paper[paper["metric"].isin([metric for metric, _ in panels])]
    figure, axes = plot.canvas(1, max(1, len(panels)), 3.9, 3.9, first=1.4)
    look = plot.looks(summary["method"])
    for ax, (metric, part) in zip(axes.flat, panels, strict=False):
        values = summary[(summary["metric"] == metric) & (summary["part"] == part)]
        published = paper[paper["metric"] == metric]
        title = results.metric_title(metric, part)
        if len(settings) == 1:
            plot.dots(ax, values, published[published["setting"] == settings[0]], look)
            plot.label(ax, x=title)
        else:
            plot.lines(ax, values, published, look, settings)
            plot.label(ax, x=axis, y=title if reference is None else f"change of {title}")
            if reference is not None:
                plot.symmetric_log(ax, values["mean"])
        if chance is not None:
            line = ax.axhline if len(settings) > 1 else ax.axvline
            line(chance, color="0.45", linestyle="--", linewidth=0.9, zorder=0)
    heading = f"{results.title}: {about}" if about else results.title
    if len(settings) == 1:
        heading += f", {axis} = {plot.number(settings[0])}"
    elif reference is not None:
        heading += f", change from {axis} = {plot.number(reference)}"
    plot.title(figure, f"{heading} (mean ± std of {plot.count(summary)})")
    plot.legend(figure, look, paper, named=len(settings) > 1)
    return figure


def by_step(
    results: ExperimentResults, plot: Plot, *, metrics: Sequence[str] = (), first_setting: bool = False
) -> Figure:
    """Plot metrics by training step: means over seeds in bands of one std.

    The paper's values by step are hollow; its final values are not shown. Each setting has a column of
    panels.

    Args:
        metrics: metrics to show, if the results have them; default: the first of the experiment.
        first_setting: show the smallest setting alone.
    """
    curves, axis = results.curves, results.axis_label
    if first_setting:
        curves = curves[curves["setting"] == curves["setting"].min()]
    settings = sorted(curves["setting"].unique())
    rows = _panels(curves, metrics) if metrics else _panels(curves, results.metric_names)[:PANELS]
    paper = results.published[results.published["metric"].isin([metric for metric, _ in rows])]
    paper = paper[paper["setting"].isin(settings) & (paper["step"] <= curves["step"].max())]
    panels = [(metric, part, setting) for metric, part in rows for setting in settings]
    columns = len(settings) if len(settings) > 1 else max(1, len(rows))
    figure, axes = plot.canvas(max(1, math.ceil(len(panels) / columns)), columns, 4.6, 3.4)
    look = plot.looks(curves["method"])
    for ax, (metric, part, setting) in zip(axes.flat, panels, strict=False):
        panel = curves[
            (curves["metric"] == metric) & (curves["part"] == part) & (curves["setting"] == setting)
        ]
        for place, (method, course) in enumerate(panel.groupby("method", sort=False)):
            # About five markers on each line, at other steps than those of the other lines.
            apart = max(1, len(course) // 5)
            every = (place * apart // len(look), apart)
            ax.plot(course["step"], course["mean"], **look[method], markevery=every, markersize=5)
            low, high = (course["mean"] + sign * course["std"].fillna(0) for sign in (-1, 1))
            ax.fill_between(course["step"], low, high, color=look[method]["color"], alpha=0.15, linewidth=0)
        published = paper[(paper["metric"] == metric) & (paper["setting"] == setting)]
        for method, values in published.groupby("method", sort=False):
            ax.plot(values["step"], values["value"], **plot.hollow(look, method))
        # Values from early in training would compress the rest of the axis.
        trained = panel[panel["step"] >= 0.1 * panel["step"].max()] if metric != "kl" else panel
        ax.set_xlim(left=0)
        bands = [trained["mean"] + sign * trained["std"].fillna(0) for sign in (-1, 1)]
        plot.limit(ax, [*bands, published["value"]])
        at = f"{axis} = {plot.number(setting)}" if len(settings) > 1 else ""
        plot.label(ax, x="training step", y=results.metric_title(metric, part), title=at)
    at = f", {axis} = {plot.number(settings[0])}" if len(settings) == 1 else ""
    plot.title(figure, f"{results.title}{at} (mean ± std of {plot.count(curves)})")
    plot.legend(figure, look, paper)
    return figure


def tuning(results: ExperimentResults, plot: Plot) -> Figure:
    """Plot the metric of each trial by method, with bars of one standard error; the chosen one is filled.

    Trials without a finite mean are counted beside the method's name.
    """
    trials = results.trials
    metric = results.experiment.metric(trials["metric"].iloc[0])
    look = plot.looks(trials["method"])
    figure, axes = plot.canvas(1, 1, 6.4, 1.2 + 0.45 * len(look))
    ax, names = axes[0, 0], []
    for place, (method, style) in enumerate(look.items()):
        own = trials[trials["method"] == method]
        finite = own[np.isfinite(own["mean"])].sort_values("mean")
        # Side by side, by their means, so that close ones do not overlap.
        heights = -place + (np.arange(len(finite)) - (len(finite) - 1) / 2) * 0.5 / max(1, len(finite) - 1)
        for row, height in zip(finite.itertuples(), heights, strict=True):
            ax.errorbar(
                row.mean,
                height,
                xerr=0 if np.isnan(row.standard_error) else row.standard_error,
                color=style["color"],
                marker=style["marker"],
                markerfacecolor=style["color"] if row.chosen else "white",
                markersize=9 if row.chosen else 5,
                elinewidth=1,
                zorder=3 if row.chosen else 2,
            )
        lost = len(own) - len(finite)
        names.append(plot.method_name(method) + (f" ({lost} of {len(own)} not finite)" if lost else ""))
    ax.set_yticks([-place for place in range(len(look))], names)
    ax.set_ylim(0.6 - len(look), 0.6)
    shown = trials["mean"][np.isfinite(trials["mean"])]
    if shown.min() > 0 and shown.max() > 30 * shown.min():
        ax.set_xscale("log")
    # Declared for the target's test images, but measured on the tasks of the trials.
    plot.label(ax, x=metric.title().removeprefix("test "))
    plot.title(figure, f"{results.title}: trials on source data (mean ± standard error over tasks)")
    return figure


def _panels(table: pd.DataFrame, metrics: Iterable[str]) -> list[tuple[str, str]]:
    """Return the metric and part of each panel, for the metrics in a table."""
    parts = table.drop_duplicates(["metric", "part"])
    return [(name, part) for name in metrics for part in parts.loc[parts["metric"] == name, "part"]]
