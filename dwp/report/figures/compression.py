"""Figures of the compression of networks: errors or losses by compression, and first layers in training."""

import numpy as np
import pandas as pd
import torch
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults

COLUMNS = 6
"""Maximum number of steps at which a first layer is shown."""


def by_compression(results: ExperimentResults, plot: Plot, *, metric: str = "error") -> Figure:
    """Plot a metric by the compression of each threshold, a line for each seed.

    The chosen threshold is filled. Methods that are not pruned are dotted lines. Each setting has a panel.

    Args:
        metric: its values at the thresholds are those of `curve_<metric>`.
    """
    at_thresholds = f"curve_{metric}"
    rows = results.rows
    settings = sorted(rows["setting"].unique())
    look = plot.looks(rows["method"])
    figure, axes = plot.canvas(1, len(settings), 5.4, 3.8)
    for ax, setting in zip(axes[0], settings, strict=True):
        shown: list[pd.Series] = []
        compressions = [1.0]
        for (method, _), own in rows[rows["setting"] == setting].groupby(["method", "seed"], sort=False):
            style = look[method]
            curve = own.pivot_table(index="part", columns="metric", values="value", sort=False)
            chosen = curve.loc[""]
            if at_thresholds not in curve:
                ax.axhline(chosen[metric], color=style["color"], linestyle=":", linewidth=1)
                shown.append(pd.Series([chosen[metric]]))
                continue
            curve = curve.dropna(subset=[at_thresholds]).sort_values("curve_compression")
            ax.plot(
                curve["curve_compression"], curve[at_thresholds], color=style["color"], linewidth=1, alpha=0.7
            )
            ax.plot(chosen["compression"], chosen[metric], color=style["color"], marker=style["marker"])
            # Networks without enough weights are at chance, which would compress the rest of the axis.
            visible = curve[curve[at_thresholds] <= 10 * chosen[metric] + 1]
            shown.append(visible[at_thresholds])
            compressions += [chosen["compression"], *visible["curve_compression"]]
        ax.set_xscale("log")
        ax.set_xlim(right=1.5 * max(compressions))
        ax.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        plot.limit(ax, shown)
        title = f"{results.axis_label} = {plot.number(setting)}" if len(settings) > 1 else ""
        plot.label(ax, x=results.metric_title("compression"), y=results.metric_title(metric), title=title)
    plot.title(figure, f"{results.title}: {metric} by compression")
    plot.legend(figure, look, results.published)
    return figure


def first_layer(results: ExperimentResults, plot: Plot) -> Figure:
    """Show the first layer of each method in training, one row each: its kernels, or the norms of its inputs.

    The first seed of the largest setting is shown, at up to `COLUMNS` steps.
    """
    rows = _first_layers(results)
    steps = sorted(rows["step"].unique())
    steps = [steps[place] for place in np.unique(np.linspace(0, len(steps) - 1, COLUMNS).round().astype(int))]
    methods = list(dict.fromkeys(rows["method"]))
    figure, axes = plot.canvas(len(methods), len(steps), 1.7, 1.8)
    for line, method in zip(axes, methods, strict=True):
        for ax, step in zip(line, steps, strict=True):
            _layer(ax, rows[rows["method"] == method], step, plot)
            label = plot.method_name(method) if step == steps[0] else ""
            plot.label(ax, y=label, title=f"step {step:g}" if method == methods[0] else "", frame=False)
    plot.title(figure, f"{results.title}: first layer in training")
    return figure


def first_layer_frames(results: ExperimentResults, plot: Plot) -> list[Figure]:
    """Show the first layer of each method, as `first_layer` does, in one frame for each evaluated step."""
    rows = _first_layers(results)
    methods = list(dict.fromkeys(rows["method"]))
    frames = []
    for step in sorted(rows["step"].unique()):
        figure, axes = plot.canvas(1, len(methods), 2.2, 2.4)
        for ax, method in zip(axes[0], methods, strict=True):
            _layer(ax, rows[rows["method"] == method], step, plot)
            plot.label(ax, title=plot.method_name(method), frame=False)
        plot.title(figure, f"First layer, step {step:g}")
        frames.append(figure)
    return frames


def _first_layers(results: ExperimentResults) -> pd.DataFrame:
    """Return the rows of the first layers of one setting and seed."""
    rows = results.rows[results.rows["metric"] == "first_layer"]
    return rows[(rows["setting"] == rows["setting"].max()) & (rows["seed"] == rows["seed"].min())]


def _layer(ax: Axes, rows: pd.DataFrame, step: float, plot: Plot) -> None:
    """Draw the kernels of a first convolution, or the norm of the weights of each pixel, over channels.

    Colours are those of the last step.
    """
    limit = rows.loc[rows["step"] == rows["step"].max(), "value"].abs().max() or 1.0
    rows = rows[rows["step"] == step]
    places = np.array([part.split("-") for part in rows["part"]]).astype(int)
    weight = np.zeros(places.max(0) + 1, dtype=np.float32)
    weight[tuple(places.T)] = rows["value"]
    if weight.ndim == 3:
        ax.imshow(np.linalg.norm(weight, axis=0), cmap="magma", vmin=0, vmax=limit)
    else:
        kernels = torch.from_numpy(weight.reshape(-1, 1, *weight.shape[2:]))
        plot.mosaic(ax, kernels, int(np.ceil(len(kernels) ** 0.5)), limit)
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])
