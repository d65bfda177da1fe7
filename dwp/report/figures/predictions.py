"""Figures of predictions: calibration and cost."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dwp.metrics import ECE_BINS
from dwp.report import aggregation
from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults

FEW = 0.02
"""Bins with a smaller share of the images are drawn hollow: their accuracy is unreliable."""
GAP = "#D55E00"


def reliability(results: ExperimentResults, plot: Plot) -> Figure:
    """Plot accuracy against confidence for each method, at the smallest and the largest setting."""
    table, axis = aggregation.reliability(results.rows), results.axis_label
    settings = sorted({table["setting"].min(), table["setting"].max()})
    methods = list(dict.fromkeys(table["method"]))
    # Blocks side by side make the figure about as wide as high.
    blocks = math.ceil(math.sqrt(1.2 * len(methods) / len(settings)))
    rows = math.ceil(len(methods) / blocks)
    blocks = math.ceil(len(methods) / rows)
    figure, axes = plot.canvas(rows, blocks * len(settings), 2.5, 2.5)
    look = plot.looks(methods)
    for index, method in enumerate(methods):
        block, row = divmod(index, rows)
        for column, setting in enumerate(settings):
            ax = axes[row, block * len(settings) + column]
            chosen = table[(table["method"] == method) & (table["setting"] == setting)]
            _diagram(ax, chosen, look[method]["color"])
            last = row == rows - 1 or index == len(methods) - 1
            at = f"{plot.method_name(method)}\n{axis} = {plot.number(setting)}"
            plot.label(ax, x="confidence" if last else "", y="" if column else "accuracy", title=at)
    for index in range(len(methods), rows * blocks):
        for column in range(len(settings)):
            axes[index % rows, index // rows * len(settings) + column].set_axis_off()
    plot.title(figure, f"{results.title}: reliability ({plot.count(table)} pooled)")
    few = f"accuracy in a bin with under {FEW:.0%} of the images"
    handles = [
        Line2D([], [], color="0.3", marker="o", linestyle="", label="accuracy in a bin (± std over seeds)"),
        Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor="white", label=few),
        Patch(color=GAP, alpha=0.35, label="gap to the confidence"),
        Patch(color="0.75", label="share of the images"),
    ]
    plot.place(figure, handles)
    return figure


def _diagram(ax: Axes, bins: pd.DataFrame, colour: str) -> None:
    width = 1 / ECE_BINS
    middle = (bins["bin"] + 0.5) * width
    ax.bar(middle, bins["fraction"], width * 0.94, color="0.75", linewidth=0)
    ax.plot([0, 1], [0, 1], color="0.45", linestyle="--", linewidth=0.9)
    ax.vlines(bins["confidence"], bins["accuracy"], bins["confidence"], color=GAP, alpha=0.35, linewidth=4)
    enough = bins[bins["fraction"] >= FEW]
    ax.plot(enough["confidence"], enough["accuracy"], color=colour, linewidth=1.4)
    for rows, face in ((enough, colour), (bins[bins["fraction"] < FEW], "white")):
        ax.errorbar(
            rows["confidence"],
            rows["accuracy"],
            rows["accuracy_std"].fillna(0),
            color=colour,
            marker="o",
            markersize=4.5,
            markerfacecolor=face,
            linestyle="",
            elinewidth=0.9,
            zorder=3,
        )
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def cost(results: ExperimentResults, plot: Plot) -> Figure:
    """Plot accuracy against the cost of training and against the cost of one prediction, in FLOPs.

    The metrics are accuracy, train_flops and predict_flops; larger settings have larger markers.
    """
    summary, axis = results.summary, results.axis_label
    settings = sorted(summary["setting"].unique())
    keys = ["method", "setting"]
    accuracy = summary[summary["metric"] == "accuracy"].set_index(keys)[["mean", "std", "n"]]
    look = plot.looks(summary["method"])
    figure, axes = plot.canvas(1, 2, 5.0, 4.2)
    for ax, metric in zip(axes.flat, ("train_flops", "predict_flops"), strict=True):
        flops = summary[summary["metric"] == metric].set_index(keys)["mean"]
        table = accuracy.join(flops.rename("flops"), how="inner").reset_index()
        shifts = _beside(table.groupby("method", sort=False)["flops"].first())
        for method, rows in table.groupby("method", sort=False):
            marks = {key: look[method][key] for key in ("color", "marker")}
            rows = rows.assign(flops=rows["flops"] * shifts[method])
            ax.plot(rows["flops"], rows["mean"], color=marks["color"], linewidth=0.9)
            for row in rows.itertuples():
                size = 4.5 + 2.5 * settings.index(row.setting) / max(1, len(settings) - 1)
                spread = 0 if np.isnan(row.std) else row.std
                ax.errorbar(row.flops, row.mean, spread, **marks, capsize=2, elinewidth=1, markersize=size)
        ax.set_xscale("log")
        ax.set_xlim(table["flops"].min() / 2, table["flops"].max() * 2)
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        plot.label(ax, x=results.metric_title(metric), y=results.metric_title("accuracy"))
    plot.title(figure, f"{results.title}: accuracy by cost (mean ± std of {plot.count(accuracy)})")
    _legend(figure, plot, look, settings, axis)
    return figure


def _beside(flops: pd.Series) -> dict[str, float]:
    """Return factors that place methods of nearly equal cost side by side on a logarithmic axis."""
    places = np.log(flops).sort_values(kind="stable")
    span = places.max() - places.min() + 2 * math.log(2)
    factors = {}
    for _, group in places.groupby((places.diff() > 0.03 * span).cumsum()):
        for place, method in enumerate(group.index):
            factors[method] = math.exp(0.022 * span * (place - (len(group) - 1) / 2))
    return factors


def _legend(figure: Figure, plot: Plot, look: dict, settings: Sequence[float], axis: str) -> None:
    handles = [
        Line2D([], [], **{key: one[key] for key in ("color", "marker")}, label=plot.method_name(method))
        for method, one in look.items()
    ]
    if len(settings) > 1:
        text = f"small to large: {axis} = {', '.join(map(plot.number, settings))}"
        handles.append(Line2D([], [], linestyle="", label=text))
    plot.place(figure, handles)
