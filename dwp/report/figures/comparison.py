"""Comparison of priors: results of methods that use one alone, against its held-out log density."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from dwp.report import comparison
from dwp.report.figures.plotting import MARKERS, Plot
from dwp.report.figures.priors import density_range
from dwp.report.results import Results

GAP = 0.06
"""Distance of priors that are not on the axis of densities, in units of its length."""
WIDTH = 5.4
"""Of a panel, in inches."""


def prior_comparison(results: Results, plot: Plot) -> Figure:
    """Plot the first metric at the smallest setting against log density, one panel for each kernel size.

    Each prior is a vertical line at its density, dashed for a lower bound, with a marker for each method that
    uses it alone; the marker tells the use. Densities far below the others are listed at the left with their
    values, and priors without a density at the right.
    """
    one, table = results.compared, comparison.table(results)
    assert one is not None
    metric = one.experiment.metrics[0]
    table = table[(table["setting"] == table["setting"].min()) & np.isfinite(table[metric.name])]
    sizes = list(dict.fromkeys(table["size"]))
    figure, axes = plot.canvas(1, max(1, len(sizes)), WIDTH, 5.2)
    if not sizes:
        axes[0, 0].set_axis_off()
        plot.title(figure, "No method has a finite result.")
        return figure
    looks: dict[str, dict[str, Any]] = {
        use: {"marker": MARKERS[number % len(MARKERS)], "color": plot.palette[number % len(plot.palette)]}
        for number, use in enumerate(dict.fromkeys(table["use"]))
    }
    for ax, size in zip(axes.flat, sizes, strict=True):
        panel = table[table["size"] == size]
        places = _place_priors(ax, plot, panel.drop_duplicates("prior"))
        for row in panel.to_dict("records"):
            error = np.nan_to_num(row["standard_error"]) if row["log_density"] == places[row["prior"]] else 0
            ax.errorbar(
                places[row["prior"]],
                row[metric.name],
                xerr=error,
                yerr=np.nan_to_num(row[f"{metric.name}_std"]),
                **looks[row["use"]],
                markersize=6,
                capsize=2.5,
                elinewidth=1,
            )
        x = f"log p(w) of {size}×{size} kernels [nats per kernel]"
        plot.label(ax, x=x, y=metric.title() if size == sizes[0] else "")
        ax.grid(visible=False, axis="x")
    at = f"{one.axis_label} = {plot.number(table['setting'].iloc[0])}"
    plot.title(figure, f"{one.title} by density of the prior, {at} (mean ± std of {plot.count(table)})")
    handles = [Line2D([], [], **look, linestyle="", label=f"as {use}") for use, look in looks.items()]
    if len(bounds := table.loc[(~table["exact"]).fillna(False), "samples"].unique()):
        counts = ", ".join(f"{count:,}" for count in sorted(bounds))
        text = f"lower bound, K = {counts}; the density is to the right"
        handles.append(Line2D([], [], color="0.6", linestyle="--", label=text))
    plot.place(figure, handles)
    return figure


def _place_priors(ax: Axes, plot: Plot, priors: pd.DataFrame) -> dict[str, float]:
    """Draw the axis of densities and the line of each prior with its name; return their places."""
    low, high = density_range(priors.rename(columns={"log_density": "mean"}))
    margin = GAP / 2 * (high - low)
    low, high = low - margin, high + margin
    density = priors.set_index("prior")["log_density"].sort_values(ascending=False)
    strips = {
        "far\nbelow": (low, -GAP * (high - low), density.index[density < low]),
        "no\ndensity": (high, GAP * (high - low), density.index[density.isna()]),
    }
    places = density.to_dict()
    ticks = {f"{tick:g}": tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high}
    ends = [low, high]
    for side, (title, (edge, gap, names)) in enumerate(strips.items()):
        if len(names):
            places |= {name: edge + gap * (number + 1) for number, name in enumerate(names)}
            ends[side] = edge + gap * (len(names) + 1)
            ticks[title] = (edge + ends[side]) / 2
            ax.axvspan(edge, ends[side], color="0.95", zorder=-1)
    ax.set_xticks(list(ticks.values()), [text.replace("-", "−") for text in ticks])
    ax.set_xlim(*ends)
    bound = dict(zip(priors["prior"], (~priors["exact"]).fillna(False), strict=True))
    labels = {}
    for name, place in places.items():
        ax.axvline(place, color="0.8", linestyle="--" if bound[name] else "-", linewidth=0.9, zorder=0)
        number = f"{density[name]:.1f}".replace("-", "−") if density[name] < low else ""
        value = " ".join(filter(None, ["≥" if bound[name] else "", number]))
        labels[name] = name.replace("_", " ") + (f" ({value})" if value else "")
    _write_names(ax, plot, places, labels)
    return places


def _write_names(ax: Axes, plot: Plot, places: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Write names above a panel, each joined to its place, and moved apart by as little as possible."""
    names = sorted(places, key=lambda name: places[name])
    left, right = ax.get_xlim()
    # The panel is about as wide as its share of the figure.
    line = plot.font_size * 1.2 / (72 * 0.85 * WIDTH) * (right - left)
    shifts = line * np.arange(len(names))
    apart = isotonic_regression(np.array([places[name] for name in names]) - shifts).x + shifts
    above: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
    for name, at in zip(names, apart, strict=True):
        ax.plot([places[name], at], [1, 1.05], color="0.7", linewidth=0.8, **above)
        ax.text(
            at,
            1.06,
            labels[name],
            rotation=60,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
            size=plot.font_size * 0.9,
            **above,
        )
