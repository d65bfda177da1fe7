"""Common parts of the figures: colours, canvases, labels, legends, panels of kernels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from torch import Tensor

# Okabe and Ito's colours (without yellow, which is invisible on white) and two of Tol's.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222", "#882255", "#999933")
MARKERS = "os^DvPX*<>"
DASHES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), ":")
BESIDE = {"fraction": 0.046, "pad": 0.03}
PAPER = (0, (2, 2))


@dataclass(frozen=True)
class Plot:
    """Style and drawing functions of all figures.

    No pyplot and no global settings, so figures can be drawn in any thread.

    Attributes:
        methods: all methods of the report, so that each has the same colour in every figure.
        titles: display names of methods; the others are called by their keys.
        font_size: in points.
        palette: colours, assigned in order.
    """

    methods: Sequence[str] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    font_size: float = 10
    palette: Sequence[str] = PALETTE

    def method_name(self, method: str) -> str:
        """Return the display name of a method: its title, or its key with spaces for underscores."""
        return self.titles.get(method, method.replace("_", " "))

    @staticmethod
    def number(value: float) -> str:
        """Return a setting in common notation: 50, 0.3, 1/16."""
        inverse = 1 / value if value else 0
        if 0 < value < 1 and math.isclose(inverse, round(inverse)):
            return f"1/{round(inverse)}"
        return f"{value:g}"

    @staticmethod
    def count(table: pd.DataFrame) -> str:
        """Return the number of seeds behind the means of a table, in words."""
        low, high = (int(table["n"].min()), int(table["n"].max())) if len(table) else (0, 0)
        return f"{low} seed{'s' * (low != 1)}" if low == high else f"{low} to {high} seeds"

    @staticmethod
    def canvas(
        rows: int, columns: int, width: float, height: float, *, first: float = 1.0
    ) -> tuple[Figure, np.ndarray]:
        """Return a figure and axes [rows, columns] of width × height inches each, the first column wider."""
        ratios = [first] + [1.0] * (columns - 1)
        figure = Figure(figsize=(max(5.0, width * sum(ratios)), height * rows + 0.7), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, width_ratios=ratios)

    def label(self, ax: Axes, *, x: str = "", y: str = "", title: str = "", frame: bool = True) -> None:
        """Give axes their labels, title and text size; `frame` is for plots, not for images."""
        ax.set_xlabel(x, size=self.font_size)
        ax.set_ylabel(y, size=self.font_size)
        ax.set_title(title, size=self.font_size)
        ax.tick_params(labelsize=self.font_size * 0.9)
        if frame:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25, linewidth=0.6)
            ax.set_axisbelow(True)

    def title(self, figure: Figure, text: str) -> None:
        """Give a figure its title."""
        figure.suptitle(text, size=self.font_size * 1.15)

    def looks(self, methods: Iterable[str]) -> dict[str, dict]:
        """Return colour, marker and line style of each method, by its place in `methods`."""
        wanted = list(dict.fromkeys(methods))
        order = list(dict.fromkeys([*self.methods, *wanted]))
        colours = len(self.palette)
        return {
            method: {
                "color": self.palette[order.index(method) % colours],
                "marker": MARKERS[order.index(method) % len(MARKERS)],
                "linestyle": DASHES[order.index(method) // colours % len(DASHES)],
            }
            for method in wanted
        }

    def hollow(self, look: dict[str, dict], method: str) -> dict:
        """Return the style of the paper's numbers for a method: its colour, or grey if this run lacks it."""
        mine = self.counterpart(look, method)
        colour, marker = (look[mine]["color"], look[mine]["marker"]) if mine else ("0.55", "o")
        return {
            "color": colour,
            "marker": marker,
            "linestyle": PAPER,
            "markerfacecolor": "white",
            "alpha": 0.85,
        }

    @staticmethod
    def counterpart(methods: Iterable[str], method: str) -> str | None:
        """Return the method of this run that matches the paper's, or a variant (`dwp_sample` of `dwp`)."""
        methods = list(methods)
        variants = [name for name in methods if name.startswith(f"{method}_")]
        return method if method in methods else variants[0] if variants else None

    def lines(
        self,
        ax: Axes,
        summary: pd.DataFrame,
        paper: pd.DataFrame,
        look: dict[str, dict],
        settings: Sequence[float],
    ) -> None:
        """Draw means with error bars by setting, methods side by side; a wide range on a log axis."""
        log = settings[0] > 0 and settings[-1] / settings[0] >= 4
        gap = min(np.diff(np.log(settings) if log else settings))
        for index, (method, style) in enumerate(look.items()):
            shift = (index - (len(look) - 1) / 2) * gap * min(0.06, 0.4 / len(look))
            rows = summary[summary["method"] == method]
            x = rows["setting"] * math.exp(shift) if log else rows["setting"] + shift
            ax.errorbar(
                x, rows["mean"], rows["std"].fillna(0), **style, capsize=2.5, markersize=5, linewidth=1.5
            )
        for method, rows in paper.groupby("method", sort=False):
            ax.plot(
                rows["setting"],
                rows["value"],
                **self.hollow(look, method),
                markersize=6,
                linewidth=1.2,
                zorder=1.9,
            )
        if log:
            ax.set_xscale("log")
        ax.xaxis.set_minor_locator(ticker.NullLocator())
        ticks = sorted({*settings, *paper["setting"]})
        ax.set_xticks(ticks, [self.number(value) for value in ticks])

    def dots(self, ax: Axes, summary: pd.DataFrame, paper: pd.DataFrame, look: dict[str, dict]) -> None:
        """Draw means with error bars, one row for each method, for a single setting."""
        places = {method: -index for index, method in enumerate(look)}
        for row in summary.itertuples():
            spread = 0 if np.isnan(row.std) else row.std
            options = {key: look[row.method][key] for key in ("color", "marker")}
            ax.errorbar(row.mean, places[row.method], xerr=spread, **options, capsize=3, markersize=7)
        for row in paper.itertuples():
            if mine := self.counterpart(look, row.method):
                ax.plot(row.value, places[mine], **self.hollow(look, row.method), markersize=8, zorder=1.9)
        ax.set_yticks(list(places.values()), [self.method_name(method) for method in places])
        ax.set_ylim(0.6 - len(places), 0.4 if len(places) == 1 else 0.6)

    @staticmethod
    def limit(ax: Axes, values: Sequence[pd.Series], *, log: bool = True) -> None:
        """Fit the vertical axis to values; logarithmic if allowed and they span a factor of 30 or more."""
        finite = pd.concat([*values, pd.Series(dtype=float)]).astype(float)
        finite = finite[np.isfinite(finite)]
        if not len(finite) or finite.min() == finite.max():
            return
        low, high = finite.min(), finite.max()
        if log and low > 0 and high / low >= 30:
            ax.set_yscale("log")
            ax.set_ylim(low / 1.3, high * 1.3)
        else:
            margin = 0.06 * (high - low)
            ax.set_ylim(low - margin, high + margin)
            ax.ticklabel_format(axis="y", scilimits=(-4, 5), useMathText=True)

    @staticmethod
    def symmetric_log(ax: Axes, changes: pd.Series) -> None:
        """If changes exceed ±30, make the axis linear within ±1 and logarithmic outside."""
        if changes.abs().max() > 30:
            ax.set_yscale("symlog", linthresh=1)

    @staticmethod
    def mosaic(ax: Axes, kernels: Tensor, side: int, limit: float, extent: tuple | None = None) -> AxesImage:
        """Draw up to side² kernels [n, 1, k, k] row by row, zero white, ±limit dark blue and dark red."""
        k = kernels.shape[-1]
        filled = min(side, math.ceil(len(kernels) / side))
        # A grey pixel between kernels.
        sheet = np.full((filled * (k + 1) + 1, side * (k + 1) + 1), np.nan, dtype=np.float32)
        for index, kernel in enumerate(kernels[: side * side, 0].numpy()):
            top, left = (place * (k + 1) + 1 for place in divmod(index, side))
            sheet[top : top + k, left : left + k] = kernel
        colours = colormaps["RdBu_r"].with_extremes(bad="0.8")
        if extent is None:
            ax.set_axis_off()
        return ax.imshow(sheet, cmap=colours, vmin=-limit, vmax=limit, extent=extent, interpolation="nearest")

    def colorbar(self, image: ScalarMappable, ax: Axes | np.ndarray, text: str, **options: Any) -> None:
        """Put a labelled colour bar beside axes, by default at the height of a square image."""
        figure = (ax if isinstance(ax, Axes) else ax.flat[0]).figure
        bar = figure.colorbar(image, ax=ax, **(options if "location" in options else BESIDE | options))
        bar.set_label(text, size=self.font_size)
        bar.ax.tick_params(labelsize=self.font_size * 0.9)

    def legend(
        self,
        figure: Figure,
        look: dict[str, dict],
        paper: pd.DataFrame,
        *,
        named: bool = True,
    ) -> None:
        """List the methods below the panels, unless an axis names them, and explain the paper's markers."""
        handles = [
            Line2D([], [], **one, label=self.method_name(method)) for method, one in look.items() if named
        ]
        drawn = paper.drop_duplicates("method")
        missing = [row.label for row in drawn.itertuples() if self.counterpart(look, row.method) is None]
        if len(drawn) > len(missing):
            read = ", read off a plot" if paper["from_plot"].all() else ""
            text = f"the paper (same colour{read})"
            handles.append(
                Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle=PAPER, label=text)
            )
        if missing and named:
            text = f"the paper: {', '.join(missing)}"
            handles.append(Line2D([], [], **self.hollow(look, missing[0]) | {"color": "0.55"}, label=text))
        self.place(figure, handles)

    def place(self, figure: Figure, handles: Sequence[Artist]) -> None:
        """Put a legend below the panels, in as many columns as fit."""
        if not handles:
            return
        # One row if it fits, else columns as wide as the longest name; letters are half as wide as high.
        room = figure.get_figwidth() * 72 / (self.font_size * 0.52)
        lengths = [len(str(handle.get_label())) + 9 for handle in handles]
        columns = len(handles) if sum(lengths) <= room else int(room / max(lengths))
        figure.legend(
            handles=handles,
            ncols=max(1, min(columns, len(handles))),
            loc="outside lower center",
            frameon=False,
            fontsize=self.font_size * 0.95,
        )
