"""Figures of sparse recurrent networks: which gates and which words stay."""

import ast
import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from dwp.compression.recurrent import GATES
from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults

NAMED = 12
"""Words that are named in a panel: those with the largest norms."""


def gates_that_stay(results: ExperimentResults, plot: Plot) -> Figure:
    """Show the number of weights of each gate of each unit, a row of panels for each sparse method.

    Gates without any are constant; they are white. Units are in the order of their number of weights. The
    first seed of the largest setting is shown.
    """
    rows = _of_first_seed(results, "gate_weights")
    methods = list(dict.fromkeys(rows["method"]))
    figure, axes = plot.canvas(max(1, len(methods)), 1, 7.5, 1.15)
    largest = max(rows["value"].max(), 2) if len(rows) else 2
    for ax, method in zip(axes[:, 0], methods, strict=False):
        counts = rows[rows["method"] == method]["value"].to_numpy().reshape(len(GATES), -1)
        order = np.argsort(-counts.sum(0), kind="stable")
        shown = np.where(counts > 0, counts, np.nan)[:, order]
        image = ax.imshow(
            shown, aspect="auto", cmap="viridis_r", norm=LogNorm(1, largest), interpolation="none"
        )
        ax.set_yticks(range(len(GATES)), GATES)
        last = method == methods[-1]
        plot.label(ax, x="unit" if last else "", title=plot.method_name(method), frame=False)
        if last:
            plot.colorbar(image, axes[:, 0], "weights", location="right", fraction=0.03)
    plot.title(figure, f"{results.title}: gates that stay")
    return figure


def words_that_stay(results: ExperimentResults, plot: Plot) -> Figure:
    """Plot the norm of each word's embedding after pruning by its place in order of frequency.

    Words without weights are on the axis; those with the largest norms are named, but for names that would
    lie over others. A panel for each sparse method, of the first seed of the largest setting.
    """
    rows = _of_first_seed(results, "word_norm")
    methods = list(dict.fromkeys(rows["method"]))
    look = plot.looks(methods)
    figure, axes = plot.canvas(1, max(1, len(methods)), 3.6, 3.6)
    for ax, method in zip(axes[0], methods, strict=False):
        _words(ax, rows[rows["method"] == method], look[method]["color"], plot)
        stay = (rows.loc[rows["method"] == method, "value"] > 0).mean()
        title = f"{plot.method_name(method)}: {stay:.0%} stay"
        plot.label(ax, x="place by frequency", y="norm" if method == methods[0] else "", title=title)
    plot.title(figure, f"{results.title}: words that stay")
    return figure


def _words(ax: Axes, rows: pd.DataFrame, colour: str, plot: Plot) -> None:
    places = rows["part"].str.split(" ", n=1).str[0].astype(int).to_numpy() + 1
    norms = rows["value"].to_numpy()
    ax.scatter(places, norms, s=6, color=colour, alpha=0.6, linewidths=0)
    ax.set_xscale("log")
    boxes: list[Bbox] = []
    largest = norms.max() or 1.0
    for index in np.argsort(-norms, kind="stable")[: 3 * NAMED]:
        word = ast.literal_eval(rows["part"].iloc[index].split(" ", 1)[1])
        name = repr(word)[1:-1]
        # About the place of the name, in shares of the panel.
        corner = math.log(places[index]) / math.log(1 + len(places)), norms[index] / largest
        box = Bbox.from_bounds(*corner, 0.03 * len(name), 0.05)
        if norms[index] > 0 and len(boxes) < NAMED and not box.count_overlaps(boxes):
            boxes.append(box)
            # Without what Matplotlib takes for mathematics.
            name = name.replace("$", r"\$")
            place = (places[index], norms[index])
            ax.annotate(name, place, size=plot.font_size * 0.75, xytext=(3, 1), textcoords="offset points")


def _of_first_seed(results: ExperimentResults, metric: str) -> pd.DataFrame:
    """Return the rows of a metric of the largest setting and the first seed."""
    rows = results.rows[results.rows["metric"] == metric]
    return rows[(rows["setting"] == rows["setting"].max()) & (rows["seed"] == rows["seed"].min())]
