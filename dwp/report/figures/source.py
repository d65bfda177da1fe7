"""Figures of the source networks and the norms of their kernels."""

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dwp.experiments.base import ACCURACY, NLL
from dwp.kernels import store
from dwp.report.figures.plotting import PALETTE, Plot
from dwp.report.results import Results


def norms(results: Results, plot: Plot) -> Figure:
    """Plot the distribution of kernel norms before pruning, and the threshold."""
    pruned = {size: store.pruning(path) for size, path in results.stores.items()}
    figure, axes = plot.canvas(1, max(1, len(pruned)), 4.6, 3.4)
    for ax, (size, one) in zip(axes.flat, pruned.items(), strict=True):
        edges, threshold = 10 ** np.asarray(one.log10_edges), one.threshold
        dropped, first = one.before - one.after, int(one.counts[0])
        for counts, colour, label in (
            (
                np.where(edges[1:] <= threshold, one.counts, 0),
                "0.7",
                f"dropped: {dropped:,}"
                + (f", of which {first:,} in the first bin" if dropped >= first else ""),
            ),
            (
                np.where(edges[1:] > threshold, one.counts, 0),
                PALETTE[0],
                f"kept: {one.after:,}",
            ),
        ):
            ax.stairs(counts, edges, fill=True, color=colour, label=label)
        ax.axvline(
            threshold,
            color=PALETTE[3],
            linewidth=1.5,
            label=f"threshold {threshold:.3g} ({one.rule})",
        )
        # The first bin has all norms near zero and would flatten the rest; space above for the legend.
        top = 1.6 * max(1, np.max(one.counts[1:]))
        ax.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, top))
        ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        modes = "two modes" if one.modes == 2 else "a single mode"
        plot.label(ax, x="norm of the kernel", y="kernels", title=f"{size}×{size}: {modes}")
        ax.legend(fontsize=plot.font_size * 0.9, framealpha=1, edgecolor="white", loc="upper left")
    plot.title(figure, "Norms of all kernels before pruning")
    return figure


def source_nets(results: Results, plot: Plot) -> Figure:
    """Plot test accuracy and NLL of source networks: a histogram, and a tick for each network."""
    nets = results.nets
    assert nets is not None
    figure, axes = plot.canvas(1, 2, 4.4, 3.0)
    for ax, metric in zip(axes.flat, (ACCURACY, NLL), strict=True):
        values = nets[metric.name].to_numpy()
        ax.hist(values, bins=max(5, min(25, len(values) // 4)), color=PALETTE[0], alpha=0.75)
        ax.plot(values, np.zeros(len(values)), "|", color="0.15", markersize=11, alpha=0.6, clip_on=False)
        ax.axvline(values.mean(), color=PALETTE[3])
        ax.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
        plot.label(ax, x=metric.title(), y="source nets", title=f"mean {values.mean():.3f}{spread}")
    title = f"{len(nets)} source nets on held-out images of the source data set"
    again = nets.loc[nets["seed"] != nets["net"], "net"]
    if len(again):
        named = ", ".join(map(str, again[:10])) + (", …" if len(again) > 10 else "")
        title += f"\n{len(again)} diverged and were trained again from another seed: {named}"
    plot.title(figure, title)
    return figure
