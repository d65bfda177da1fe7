"""Figures of priors: samples, codes, training, held-out log density."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from dwp.kernels.collection import norms as norms_of
from dwp.priors.base import PriorWithCodes
from dwp.report.figures.plotting import Plot
from dwp.report.fitted import draw, kept_step, median_norm
from dwp.report.results import Results

BOUND = {
    "log_prob": "log p(w)",
    "elbo": "ELBO",
    "log_likelihood": "E$_r$ log p(w|z)",
    "kl": "KL(r(z|w)‖p(z))",
    "conditional_elbo": "ELBO given weights",
}
"""Titles of metrics in nats per kernel."""


def kernels(results: Results, plot: Plot, *, size: int, side: int = 8) -> Figure:
    """Show learned kernels beside samples, noiseless samples and reconstructions of each prior.

    Args:
        size: size of the kernels. Priors that cannot be sampled from are left out.
        side: each panel has side × side kernels, or fewer if there are fewer.
    """
    learned = results.learned(size)
    side = min(side, math.isqrt(len(learned)))
    count = side * side
    order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))
    examples = learned[order[:count]]
    panels = [("learned kernels", "held out", examples, median_norm(learned))]
    for name, prior in results.priors_of(size).items():
        if isinstance(prior, PriorWithCodes):
            with torch.no_grad():
                rebuilt = prior.decode(prior.encode(examples)[0])[0]
            panels.append((name, "reconstructions", rebuilt, median_norm(rebuilt)))
        many, means = draw(prior, 4096), draw(prior, 4096, mean=True)
        if many is None or means is None:
            continue
        panels.append((name, "samples", many[:count], median_norm(many)))
        if not torch.equal(many, means):
            panels.append((name, "means of samples", means[:count], median_norm(means)))
    columns = min(3 if len(panels) <= 6 else 4, len(panels))
    figure, axes = plot.canvas(math.ceil(len(panels) / columns), columns, 2.9, 3.15)
    limit = float(np.quantile(learned.abs().numpy(), 0.995))
    for ax, (title, shown, tensor, norm) in zip(axes.flat, panels, strict=False):
        image = plot.mosaic(ax, tensor.cpu(), side, limit)
        plot.label(ax, title=f"{title}\n{shown}, median norm {norm:.2f}", frame=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    options = {"location": "bottom", "aspect": 50, "shrink": 0.5, "extend": "both"}
    plot.colorbar(image, axes, "weight, one scale for all panels", **options)
    plot.title(figure, f"{size}×{size} kernels")
    return figure


@torch.no_grad()
def latent_space(results: Results, plot: Plot, *, prior: str, size: int, side: int = 15) -> Figure:
    """Show the codes of held-out kernels, and kernels decoded from a grid of codes.

    Args:
        prior: name of a prior with `encode` and `decode`. If it has more than two latent dimensions, the
            two along which the mean codes vary most are shown; the others are zero.
        size: size of the kernels.
        side: the grid has side × side codes.
    """
    name, coded = prior, results.priors[prior][size]
    assert isinstance(coded, PriorWithCodes)
    learned = results.learned(size)[:20_000]
    codes = torch.cat([coded.encode(part)[0] for part in learned.split(4096)])
    widest = sorted(codes.var(0).argsort(descending=True)[:2].tolist())
    # One-dimensional codes are shown on the diagonal.
    first, second = (widest * 2)[:2]
    extent = max(2.5, float(codes[:, widest].abs().quantile(0.995)))
    figure, axes = plot.canvas(1, 2, 5.6, 4.3)
    left, right = axes[0]
    norm = norms_of(learned.numpy())
    options = {"s": 7, "vmax": np.quantile(norm, 0.995), "linewidths": 0, "rasterized": True}
    points = left.scatter(codes[:, first], codes[:, second], c=norm, **options)
    behind = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
    for radius in (1, 2):
        left.add_patch(Circle((0, 0), radius, fill=False, edgecolor="0.35", linestyle="--", linewidth=0.9))
        left.text(
            0, radius, f"{radius}σ of p(z)", ha="center", va="center", size=plot.font_size * 0.8, bbox=behind
        )
    left.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
    plot.colorbar(points, left, "norm of the kernel")
    grid = torch.linspace(-2.5, 2.5, side)
    z = torch.zeros(side * side, codes.shape[1])
    z[:, second], z[:, first] = (axis.flatten() for axis in torch.meshgrid(grid.flip(0), grid, indexing="ij"))
    decoded = coded.decode(z)[0]
    half = 2.5 + 2.5 / (side - 1)
    limit = float(np.quantile(decoded.abs().numpy(), 0.995))
    image = plot.mosaic(right, decoded, side, limit, extent=(-half, half, -half, half))
    plot.colorbar(image, right, "weight", extend="both")
    labels = {"x": f"$z_{{{first + 1}}}$", "y": f"$z_{{{second + 1}}}$"}
    more = codes.shape[1] - len(widest)
    held = f" (the other {more} dimension{'s' * (more > 1)} of z at 0)" if more else ""
    plot.label(left, **labels, title=f"mean codes of {len(learned):,} held-out kernels", frame=False)
    plot.label(right, **labels, title=f"decoder means{held}", frame=False)
    plot.title(figure, f"{name}: latent space of {size}×{size} kernels")
    return figure


def prior_training(results: Results, plot: Plot) -> Figure:
    """Plot the training of priors: held-out metrics (solid) and training metrics (dotted) by step.

    Histories of a single step are left out; each published number is a dashed line.
    """
    histories, paper = results.histories, results.published
    rows = [
        table.assign(name=name, size=size, held=~table["metric"].str.startswith("train_"))
        for name, sizes in histories.items()
        for size, table in sizes.items()
        if table["step"].nunique() > 1
    ]
    rows = (
        pd.concat(rows) if rows else pd.DataFrame(columns=["step", "metric", "value", "name", "size", "held"])
    )
    rows["metric"] = rows["metric"].str.removeprefix("train_")
    validation = rows["metric"].str.startswith("validation_")
    judged = rows[validation].groupby(["name", "size"]).groups
    chosen = {(name, size): kept_step(histories[name][size]) for name, size in judged}
    rows = rows[~validation]
    sizes, recorded = (list(dict.fromkeys(rows[column])) for column in ("size", "metric"))
    metrics = sorted(recorded, key=[*BOUND, *recorded].index)[:4]
    figure, axes = plot.canvas(max(1, len(sizes)), max(1, len(metrics)), 3.9, 2.8)
    look = replace(plot, methods=list(histories)).looks(rows["name"])
    if not len(rows):
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, "No prior of this run was trained.", ha="center", size=plot.font_size)
    for ax, (size, metric) in zip(axes.flat, product(sizes, metrics), strict=False):
        panel = rows[(rows["size"] == size) & (rows["metric"] == metric)]
        values = []
        for (name, held), line in panel.groupby(["name", "held"], sort=False):
            ax.plot(line["step"], line["value"], color=look[name]["color"], linestyle="-" if held else ":")
            values.append(line["value"].iloc[len(line) // 20 :])
            if held and (name, size) in chosen:
                kept = line[line["step"] == chosen[name, size]]
                ax.plot(kept["step"], kept["value"], "o", color=look[name]["color"], mec="white", ms=9)
        for line in paper[(paper["metric"] == metric) & (paper["setting"] == size)].itertuples():
            ax.axhline(line.value, color="0.45", linestyle=(0, (6, 3)), linewidth=1.2)
            values.append(pd.Series([line.value]))
        # The first steps, many nats below the rest, would compress the axis.
        plot.limit(ax, values, log=False)
        text = f"{BOUND[metric]}\n[nats per kernel]" if metric in BOUND else metric.replace("_", " ")
        plot.label(ax, x="training step", y=text, title=f"{size}×{size}")
    plot.title(figure, "Fitting the priors")
    handles = [Line2D([], [], color=look[name]["color"], label=f"{name}, held out") for name in look]
    if not rows["held"].all():
        handles.append(Line2D([], [], color="0.3", linestyle=":", label="on training kernels"))
    if chosen:
        text = "kept: the best on validation kernels"
        handles.append(Line2D([], [], color="0.3", linestyle="", marker="o", label=text))
    if paper["setting"].isin(sizes).any():
        text = "published VAE on its own kernels"
        handles.append(Line2D([], [], color="0.45", linestyle=(0, (6, 3)), label=text))
    plot.place(figure, handles)
    return figure


def scores(results: Results, plot: Plot) -> Figure:
    """Plot the mean log density of held-out kernels under each prior; lower bounds as arrows along K."""
    table, plot = results.scores, replace(plot, methods=list(results.priors))
    assert table is not None
    sizes = list(dict.fromkeys(table["size"]))
    look = plot.looks(table["prior"])
    most = table.groupby("size")["prior"].nunique().max()
    figure, axes = plot.canvas(1, len(sizes), 5.2, 0.9 + 0.55 * most)
    for ax, size in zip(axes.flat, sizes, strict=True):
        panel = table[table["size"] == size]
        names = list(dict.fromkeys(panel["prior"]))
        low, high = density_range(panel)
        # Space for the numbers.
        margin = 0.16 * (high - low)
        ax.set_xlim(low - margin, high + margin)
        for place, name in enumerate(names):
            rows = panel[panel["prior"] == name].sort_values("samples")
            _score(ax, rows, -place, look[name]["color"], plot.font_size * 0.85)
        ax.set_ylim(0.4 - len(names), 0.7)
        ax.set_yticks([-place for place in range(len(names))], [plot.method_name(name) for name in names])
        count = f"{panel['kernels'].iloc[0]:,} held-out kernels of {size}×{size}"
        plot.label(ax, x="log p(w) [nats per kernel]", title=count)
    plot.title(figure, "Held-out kernels under each prior (mean ± standard error)")
    handles = [Line2D([], [], color="0.3", marker="o", linestyle="", label="exact")]
    if not table["exact"].all():
        counts = ", ".join(f"{count:,}" for count in sorted(table.loc[~table["exact"], "samples"].unique()))
        text = f"lower bound, K = {counts} samples from left to right; the density is above"
        handles.append(Line2D([], [], color="0.3", marker=">", markerfacecolor="white", label=text))
    plot.place(figure, handles)
    return figure


def density_range(panel: pd.DataFrame) -> tuple[float, float]:
    """Return the smallest and largest mean to show, without outliers that would compress the rest."""
    means = panel["mean"][np.isfinite(panel["mean"])]
    least = means.groupby(panel["prior"]).min().sort_values(ascending=False)
    if not len(means):
        return 0.0, 1.0
    reach = 4 * max(5.0, means.max() - least.iloc[(len(least) - 1) // 2])
    return max(means.max() - reach, least[least >= means.max() - reach].min() - 1), means.max() + 1


def _score(ax: Axes, rows: pd.DataFrame, place: float, colour: str, size: float) -> None:
    exact = bool(rows["exact"].iloc[0])
    options: dict[str, Any] = {
        "color": colour,
        "markersize": 7,
        "capsize": 3,
        "elinewidth": 1,
        "linewidth": 1.2,
    }
    means, errors = rows["mean"].to_numpy(), rows["standard_error"].fillna(0).to_numpy()
    text = ("" if exact else "≥ ") + " → ".join(f"{mean:.1f}" for mean in means)
    left, right = ax.get_xlim()
    if means[-1] < left or not np.isfinite(means[-1]):
        at = left + 0.02 * (right - left)
        ax.plot(at, place, marker="<", color=colour, markersize=7)
        ax.annotate(text, (at, place), (8, 0), textcoords="offset points", va="center", size=size)
        return
    if exact:
        ax.errorbar(means, [place], xerr=errors, marker="o", **options)
    else:
        ax.errorbar(means, [place] * len(means), xerr=errors, marker=">", markerfacecolor="white", **options)
    middle = (means[0] + means[-1]) / 2
    ax.annotate(text, (middle, place), (0, 7), textcoords="offset points", ha="center", size=size)
