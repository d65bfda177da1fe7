"""Every plot, from tidy tables and tensors; each function returns a Matplotlib Figure.

`style` is a dict: `font_size` (points), `palette` (colours, taken in turn) and `methods`
(all methods of the report, so that one has the same colour in every figure); `dpi` is for
whoever saves. No pyplot and no global settings, so figures can be drawn in any thread.
"""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from torch import Tensor

from dwp import plotting
from dwp.kernels import norms as norms_of
from dwp.priors import Prior
from dwp.tables import draw, median_norm

FIRST = ("accuracy", "nll", "ece")
BOUND = {"elbo": "ELBO", "log_likelihood": "log-likelihood", "kl": "KL(r(z|w)‖p(z))"}


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
        plotting.limit(
            ax, [trained["mean"] - trained["std"].fillna(0), trained["mean"] + trained["std"].fillna(0)]
        )
        at = f"{axis} = {plotting.number(setting)}" if len(settings) > 1 else ""
        plotting.label(ax, style, x="training step", y=plotting.name(metric), title=at)
    at = f", {axis} = {plotting.number(settings[0])}" if len(settings) == 1 else ""
    plotting.title(figure, style, f"{title}{at} (mean ± std of {plotting.count(curves)})")
    plotting.legend(figure, style, look, paper, markers=False)
    return figure


def kernels(learned: Tensor, priors: dict[str, Prior], style: dict, *, side: int = 8) -> Figure:
    """Show learned kernels beside samples, noiseless samples and reconstructions of each prior.

    Args:
        learned: held-out kernels [n, 1, k, k].
        priors: by name, all of this size; those that cannot be sampled from are left out.
        side: each panel is of side × side kernels, fewer where there are fewer.
    """
    side = min(side, math.isqrt(len(learned)))
    count, size = side * side, learned.shape[-1]
    chosen = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))[:count]
    shown = learned[chosen]
    panels = [("learned kernels, held out", shown, median_norm(learned))]
    for name, prior in priors.items():
        if hasattr(prior, "encode") and hasattr(prior, "decode"):
            with torch.no_grad():
                rebuilt = prior.decode(prior.encode(shown)[0])[0]
            panels.append((f"{name}: reconstructions of these", rebuilt, median_norm(rebuilt)))
        many, means = draw(prior, 4096), draw(prior, 4096, mean=True)
        if many is None:
            continue
        panels.append((f"{name}: samples", many[:count], median_norm(many)))
        if not torch.equal(many, means):
            panels.append((f"{name}: samples, means only", means[:count], median_norm(means)))
    columns = min(3 if len(panels) <= 6 else 4, len(panels))
    figure, axes = plotting.canvas(math.ceil(len(panels) / columns), columns, 2.9, 3.15)
    limit = float(np.quantile(learned.abs().numpy(), 0.995))
    for ax, (title, tensor, norm) in zip(axes.flat, panels, strict=False):
        image = plotting.mosaic(ax, tensor.cpu(), side, limit)
        plotting.label(ax, style, title=f"{title}\n(median norm {norm:.2f})", frame=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    options = {"location": "bottom", "aspect": 50, "shrink": 0.5, "extend": "both"}
    plotting.colorbar(image, axes, style, "weight, one scale for all panels", **options)
    plotting.title(figure, style, f"{size}×{size} kernels")
    return figure


@torch.no_grad()
def latent_space(prior: Prior, learned: Tensor, style: dict, *, name: str = "vae", side: int = 15) -> Figure:
    """Show the codes of held-out kernels and what the decoder makes of a grid of codes.

    Args:
        prior: with `encode` and `decode`. Of more than two latent dimensions, those two are
            shown along which the means of the codes vary most; the others are held at zero.
        learned: held-out kernels [n, 1, k, k].
    """
    learned = learned[:20_000]
    codes = torch.cat([prior.encode(part)[0] for part in learned.split(4096)])
    shown = sorted(codes.var(0).argsort(descending=True)[:2].tolist())
    # A code of one dimension is shown on the diagonal.
    first, second = (shown * 2)[:2]
    extent = max(2.5, float(codes[:, shown].abs().quantile(0.995)))
    figure, axes = plotting.canvas(1, 2, 5.6, 4.3)
    left, right = axes[0]
    size = plotting.size(style)
    norm = norms_of(learned.numpy())
    options = {"s": 7, "vmax": np.quantile(norm, 0.995), "linewidths": 0, "rasterized": True}
    points = left.scatter(codes[:, first], codes[:, second], c=norm, **options)
    behind = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
    for radius in (1, 2):
        left.add_patch(Circle((0, 0), radius, fill=False, edgecolor="0.35", linestyle="--", linewidth=0.9))
        left.text(0, radius, f"{radius}σ of p(z)", ha="center", va="center", size=size * 0.8, bbox=behind)
    left.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
    plotting.colorbar(points, left, style, "norm of the kernel")
    grid = torch.linspace(-2.5, 2.5, side)
    z = torch.zeros(side * side, codes.shape[1])
    z[:, second], z[:, first] = (axis.flatten() for axis in torch.meshgrid(grid.flip(0), grid, indexing="ij"))
    decoded = prior.decode(z)[0]
    half = 2.5 + 2.5 / (side - 1)
    limit = float(np.quantile(decoded.abs().numpy(), 0.995))
    image = plotting.mosaic(right, decoded, side, limit, extent=(-half, half, -half, half))
    plotting.colorbar(image, right, style, "weight", extend="both")
    labels = {"x": f"$z_{{{first + 1}}}$", "y": f"$z_{{{second + 1}}}$"}
    more = codes.shape[1] - len(shown)
    held = f" (the other {more} dimension{'s' * (more > 1)} of z at 0)" if more else ""
    plotting.label(
        left, style, **labels, title=f"mean codes of {len(learned):,} held-out kernels", frame=False
    )
    plotting.label(right, style, **labels, title=f"decoder means{held}", frame=False)
    plotting.title(figure, style, f"{name}: latent space of {learned.shape[-1]}×{learned.shape[-1]} kernels")
    return figure


def norms(histograms: dict[int, dict], style: dict) -> Figure:
    """Plot how the norms of kernels were distributed before pruning, and where they were cut.

    Args:
        histograms: by kernel size: `counts` [b], `log10_edges` [b + 1], `threshold`, `rule`,
            and the numbers of kernels `before` and `after`.
    """
    figure, axes = plotting.canvas(1, max(1, len(histograms)), 4.6, 3.4)
    for ax, (size, store) in zip(axes.flat, histograms.items(), strict=True):
        edges, threshold = 10 ** np.asarray(store["log10_edges"]), store["threshold"]
        dropped, first = store["before"] - store["after"], int(store["counts"][0])
        for counts, colour, label in (
            (
                np.where(edges[1:] <= threshold, store["counts"], 0),
                "0.7",
                f"dropped: {dropped:,}"
                + (f", of which {first:,} in the first bin" if dropped >= first else ""),
            ),
            (
                np.where(edges[1:] > threshold, store["counts"], 0),
                plotting.PALETTE[0],
                f"kept: {store['after']:,}",
            ),
        ):
            ax.stairs(counts, edges, fill=True, color=colour, label=label)
        ax.axvline(
            threshold,
            color=plotting.PALETTE[3],
            linewidth=1.5,
            label=f"threshold {threshold:.3g} ({store['rule']})",
        )
        # The first bin holds everything near zero and would flatten the rest; room above for the legend.
        top = 1.6 * max(1, np.max(store["counts"][1:]))
        ax.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, top))
        ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        plotting.label(ax, style, x="norm of the kernel", y="kernels", title=f"{size}×{size}")
        ax.legend(fontsize=plotting.size(style) * 0.9, framealpha=1, edgecolor="white", loc="upper left")
    plotting.title(figure, style, "Norms of all kernels before pruning")
    return figure


def prior_training(histories: dict[str, dict[int, pd.DataFrame]], paper: pd.DataFrame, style: dict) -> Figure:
    """Plot how priors were fitted: held-out metrics (solid) and training metrics (dotted) by step.

    Args:
        histories: by name and size, columns step, metric, value; those without rows are left out.
        paper: `paper.published("priors", …)`: a dashed line each; may be empty.
    """
    rows = [
        table.assign(name=name, size=size, held=~table["metric"].str.startswith("train_"))
        for name, sizes in histories.items()
        for size, table in sizes.items()
        if len(table)
    ]
    rows = (
        pd.concat(rows) if rows else pd.DataFrame(columns=["step", "metric", "value", "name", "size", "held"])
    )
    rows["metric"] = rows["metric"].str.removeprefix("train_")
    sizes, found = (list(dict.fromkeys(rows[column])) for column in ("size", "metric"))
    metrics = sorted(found, key=[*BOUND, *found].index)[:4]
    figure, axes = plotting.canvas(max(1, len(sizes)), max(1, len(metrics)), 3.9, 2.8)
    look = plotting.looks({**style, "methods": list(histories)}, rows["name"])
    if not len(rows):
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, "No prior of this run was trained.", ha="center", size=plotting.size(style))
    for ax, (size, metric) in zip(axes.flat, product(sizes, metrics), strict=False):
        panel = rows[(rows["size"] == size) & (rows["metric"] == metric)]
        values = []
        for (name, held), line in panel.groupby(["name", "held"], sort=False):
            ax.plot(line["step"], line["value"], color=look[name]["color"], linestyle="-" if held else ":")
            values.append(line["value"].iloc[len(line) // 20 :])
        for line in paper[(paper["metric"] == metric) & (paper["setting"] == size)].itertuples():
            ax.axhline(line.value, color="0.45", linestyle=(0, (6, 3)), linewidth=1.2)
            values.append(pd.Series([line.value]))
        # The first steps, many nats below the rest, would hide it.
        plotting.limit(ax, values, log=False)
        text = f"{BOUND.get(metric) or plotting.name(metric)}\n[nats per kernel]"
        plotting.label(ax, style, x="training step", y=text, title=f"{size}×{size}")
    plotting.title(figure, style, "Fitting the priors")
    handles = [Line2D([], [], color=look[name]["color"], label=f"{name}, held out") for name in look]
    if not rows["held"].all():
        handles.append(Line2D([], [], color="0.3", linestyle=":", label="on training kernels"))
    if paper["setting"].isin(sizes).any():
        text = "published VAE on its own kernels"
        handles.append(Line2D([], [], color="0.45", linestyle=(0, (6, 3)), label=text))
    plotting.place(figure, style, handles)
    return figure


def source_nets(nets: pd.DataFrame, style: dict) -> Figure:
    """Plot test accuracy and NLL of source nets: a histogram, and a tick for each net."""
    figure, axes = plotting.canvas(1, 2, 4.4, 3.0)
    for ax, metric in zip(axes.flat, ("accuracy", "nll"), strict=True):
        values = nets[metric].to_numpy()
        ax.hist(values, bins=max(5, min(25, len(values) // 4)), color=plotting.PALETTE[0], alpha=0.75)
        ax.plot(values, np.zeros(len(values)), "|", color="0.15", markersize=11, alpha=0.6, clip_on=False)
        ax.axvline(values.mean(), color=plotting.PALETTE[3])
        ax.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
        plotting.label(
            ax, style, x=plotting.name(metric), y="source nets", title=f"mean {values.mean():.3f}{spread}"
        )
    plotting.title(figure, style, f"{len(nets)} source nets on held-out images of the source data set")
    return figure
