"""Figure of the findings: the methods at the smallest setting, and their differences from the best."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dwp.report import findings as found
from dwp.report.figures.plotting import Plot
from dwp.report.results import Results


def findings(results: Results, plot: Plot) -> Figure:
    """Plot the first metric of each method, best first, and the paired difference from a reference.

    The reference is the best method without a learned prior, or the best of all if there is none. Methods
    with a learned prior are filled.
    """
    one = results.compared
    assert one is not None
    plot = replace(plot, titles=one.titles)
    figure, (axes,) = plot.canvas(1, 2, 4.6, 1.2 + 0.34 * one.rows["method"].nunique())
    settings = found.settings(one)
    table = found.means(one, settings[0]) if settings else one.summary.iloc[:0]
    if not len(table):
        for ax in axes:
            ax.set_axis_off()
        plot.title(figure, "No method has a finite result.")
        return figure
    title = one.metric_title(one.experiment.metrics[0].name)
    others = table.index[~table["learned"]]
    reference = others[0] if len(others) else table.index[0]
    pairs = found.differences(one, settings[0], reference)
    look, places = plot.looks(one.rows["method"]), {}
    for place, row in enumerate(table.itertuples()):
        places[row.Index] = -place
        style = {key: look[row.Index][key] for key in ("color", "marker")}
        style |= {"markersize": 8, "capsize": 3, "markeredgewidth": 1.6, "elinewidth": 1.3}
        style["markerfacecolor"] = style["color"] if row.learned else "white"
        axes[0].errorbar(row.mean, -place, xerr=np.nan_to_num(row.std), **style)
        if row.Index in pairs.index:
            difference, width = pairs.loc[row.Index, ["difference", "half_width"]]
            axes[1].errorbar(difference, -place, xerr=np.nan_to_num(width), **style)
    axes[1].locator_params(axis="x", nbins=5)
    axes[1].axvline(0, color="0.35", linestyle="--", linewidth=1)
    axes[1].annotate(
        "reference",
        (0, places[reference]),
        (5, 0),
        textcoords="offset points",
        va="center",
        size=plot.font_size * 0.85,
        color="0.35",
    )
    names = [plot.method_name(method) for method in places]
    for ax, labels in zip(axes, (names, [""] * len(names)), strict=True):
        ax.set_yticks(list(places.values()), labels)
        ax.set_ylim(0.4 - len(places), 0.6)
    plot.label(axes[0], x=title, title="mean ± std over seeds")
    plot.label(axes[1], x=f"difference of {title}", title="difference from the reference, 95 % interval")
    better = one.experiment.metrics[0].better
    at = f"{one.axis_label} = {plot.number(settings[0])}"
    plot.title(figure, f"{one.title}, {at} ({better} is better; {plot.count(table)})")
    handles = [
        Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor=face, markersize=8, label=text)
        for face, text in (("0.3", "with a learned prior"), ("white", "without"))
    ]
    plot.place(figure, handles)
    return figure
