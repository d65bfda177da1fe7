"""The page of all findings and figures: one file, without references to others."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from docutils.core import publish_parts
from PIL import Image

from dwp.report import findings, pages
from dwp.report.catalogue import Item
from dwp.report.explorer import explorer
from dwp.report.html import front_page
from dwp.report.results import ExperimentResults, Results

WIDEST = 1600
"""Width of embedded figures in pixels, at most."""
CSS_DPI = 96

APART = {"tuning": "Tuned settings", "reliability": "Calibration", "cost": "Cost"}
"""Headings of the figures of an experiment that have a section of their own, by caption, in their order."""


@dataclass(frozen=True)
class Picture:
    """A figure for the page: WebP in base64, its size in CSS pixels, its label, and its caption in HTML."""

    data: str
    width: int
    height: int
    label: str
    caption: str


@dataclass(frozen=True)
class Part:
    """Part of a section; `kind` is the name of a macro of `dwp.report.html`, `content` its argument."""

    kind: Literal["figure", "tables", "explorer"]
    content: Any


@dataclass(frozen=True)
class Section:
    """A section of the page, with the name of its anchor."""

    anchor: str
    title: str
    parts: Sequence[Part]
    note: str = ""


def front(
    results: Results, drawn: Sequence[Item], folder: Path, *, dpi: float, captions: Mapping[str, str]
) -> str:
    """Return the page: findings, kernels and priors with explorers, then each experiment.

    Args:
        results: results of the run.
        drawn: items of the report with figures, whose PNG files exist.
        folder: folder of the report.
        dpi: resolution of the PNG files.
        captions: captions in reStructuredText, by file.
    """
    pictures = {
        item.name: _picture(folder / f"{item.name}.png", dpi, item.label, captions.get(f"{item.caption}.rst"))
        for item in drawn
    }
    subject = results.compared
    sections = [_kernels(results, drawn, pictures)]
    for name, one in results.experiments.items():
        own = [(item.caption, pictures[item.name]) for item in drawn if item.experiment == name]
        sections += _experiment(one, own)
    data = f"kernels of {results.source}, tasks of {results.target}" if results.source else results.target
    return front_page(
        title=findings.headline(subject),
        sentences=[_unbroken(sentence) for sentence in findings.sentences(subject)],
        figure=pictures.get("figures/findings"),
        note=findings.NOTE,
        about=data,
        sections=[section for section in sections if section.parts],
    )


def _kernels(results: Results, drawn: Sequence[Item], pictures: Mapping[str, Picture]) -> Section:
    """Return the section of kernels and priors: norms before samples, an explorer before its figure."""
    parts = []
    for item in sorted(drawn, key=lambda item: item.category != "Source kernels"):
        if item.experiment or item.category == "At a glance":
            continue
        if item.caption == "latent_space":
            parts.append(Part("explorer", explorer(results, **item.options)))
        parts.append(Part("figure", pictures[item.name]))
    note = ""
    if len(results.scores):
        parts.append(Part("tables", pages.scores_tables(results)))
        note = pages.scores_footnote(results)
    return Section("kernels", "Kernels and priors", parts, note)


def _experiment(results: ExperimentResults, own: Sequence[tuple[str, Picture]]) -> list[Section]:
    """Return the sections of an experiment: results, tuned settings, calibration, cost.

    Args:
        results: its results.
        own: its figures, each with the name of its caption.
    """
    tables = {
        "results": pages.metric_tables(results, lambda metric: metric.role == "result"),
        "cost": pages.metric_tables(results, lambda metric: metric.role == "cost"),
        "tuning": [pages.tuned_settings(results)] if len(results.trials) else [],
    }

    def section(key: str, title: str, pictures: list[Picture], note: str = "") -> Section:
        shown = [Part("tables", tables[key])] if tables.get(key) else []
        return Section(
            f"{results.name}-{key}", title, [*(Part("figure", one) for one in pictures), *shown], note
        )

    main = [picture for caption, picture in own if caption not in APART]
    title = results.title.partition(":")[0]
    sections = [section("results", title, main, pages.footnote(results))]
    for apart, heading in APART.items():
        pictures = [picture for caption, picture in own if caption == apart]
        sections.append(section(apart, heading, pictures, pages.footnote(results) if apart == "cost" else ""))
    return sections


def _picture(file: Path, dpi: float, label: str, caption: str | None) -> Picture:
    with Image.open(file) as image:
        width, height = (round(side * CSS_DPI / dpi) for side in image.size)
        small = image.convert("RGB")
    small.thumbnail((WIDEST, 4 * WIDEST))
    webp = io.BytesIO()  # half the size of PNG
    small.save(webp, "WEBP", lossless=True)
    text = "" if caption is None else _html(caption)
    return Picture(base64.b64encode(webp.getvalue()).decode(), width, height, label, text)


def _unbroken(text: str) -> str:
    """Return a sentence whose lines do not break within '0.7 ± 0.1', '95 %' or '5 seeds'."""
    return re.sub(r" (?=±|%|seeds)|(?<=±) ", "\N{NO-BREAK SPACE}", text)


def _html(text: str) -> str:
    """Return reStructuredText as HTML."""
    options = {"file_insertion_enabled": False, "raw_enabled": False, "report_level": 5}
    return publish_parts(text, writer="html5", settings_overrides=options)["body"]
