"""Writing of the report: every table, page and figure listed in `dwp.report.catalogue`."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from dwp.errors import InputError
from dwp.experiments import base
from dwp.experiments.methods import PriorUse
from dwp.files import atomic_write
from dwp.priors import scores
from dwp.priors.base import load_prior
from dwp.report import aggregation, figures, pages, published, tables
from dwp.report.catalogue import FRONT, Contents, Item, Output, items, report_files
from dwp.report.figures.plotting import Plot
from dwp.report.front import front
from dwp.report.results import ExperimentResults, Results

DPI = 150
TEXT = {"tables": tables, "pages": pages}
FRAME = 400
"""Milliseconds of a frame of an animation."""

Content: TypeAlias = Figure | list[Figure] | pd.DataFrame | str
# Leaves out dates and library versions, which would change the bytes.
_METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}


def make(
    output: str | Path,
    *,
    experiments: Mapping[str, Sequence[str | Path]],
    stores: Mapping[int, str | Path],
    priors: Mapping[str, Mapping[int, str | Path]],
    histories: Mapping[str, Mapping[int, str | Path]],
    nets: Sequence[str | Path] = (),
    scored: Sequence[str | Path] = (),
    sampled: Sequence[str | Path] = (),
    tunings: Mapping[str, Sequence[str | Path]] | None = None,
    switches: Mapping[str, Sequence[str]] | None = None,
    source: str = "",
    target: str = "",
    titles: Mapping[str, Mapping[str, str]] | None = None,
    learned: Mapping[str, Collection[str]] | None = None,
    kinds: Mapping[str, str] | None = None,
    uses: Mapping[str, PriorUse] | None = None,
    score_roles: Mapping[int, Mapping[str, str]] | None = None,
    tuning_roles: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
    captions: Mapping[str, str] | None = None,
    style: Mapping[str, float] | None = None,
) -> list[Output]:
    """Write all tables, pages and figures of a run; the same inputs give the same bytes.

    Args:
        output: folder for `tables`, `pages` and `figures`.
        experiments: CSV files of cells (columns `dwp.experiments.base.COLUMNS`) by experiment.
        stores: kernel stores (`dwp.kernels.store.collect`) by size.
        priors: files of fitted priors, by name and size.
        histories: CSV files (step, metric, value) by name and size; optional for priors without training.
        nets: CSV files of source networks (net, seed, accuracy, nll); empty if none were trained.
        scored: CSV files of `dwp.priors.scores.COLUMNS`, by size; empty if no prior has a density.
        sampled: CSV files of `dwp.priors.scores.SAMPLES`, one for each of `scored`.
        tunings: CSV files of the trials of each tuned method (columns `aggregation.TRIALS`) by experiment.
        switches: names of the boolean settings that are true, by experiment.
        source: name of the data set of the kernels.
        target: name of the data set of the experiments. The paper's numbers are shown if source and
            target are the paper's.
        titles: display names of methods, by experiment; the others are called by their keys.
        learned: methods with a learned prior, as prior or as initialisation, by experiment.
        kinds: kind of each prior, by name, in the order of the tables; without, that of `scored`.
        uses: how methods of the experiment `catalogue.compared` that use one prior alone use it.
        score_roles: role of each prior in `scored` and `sampled`, by kernel size and name; without, their
            priors keep the names that they have there.
        tuning_roles: role of each prior in the settings of trials, by experiment, method and name.
        captions: captions of the figures in reStructuredText, by file, for the page of findings.
        style: `dpi` of PNG files, and `font_size` in points.

    Returns:
        The written files: `report_files` of the same contents.

    Raises:
        InputError: an input is missing or malformed.
    """
    tunings, titles, learned = tunings or {}, titles or {}, learned or {}
    results = Results(
        experiments={
            name: _experiment(
                name,
                files,
                published=published.published(name, source, target),
                trials=aggregation.trials_by_name(
                    aggregation.read(tunings.get(name, ()), aggregation.TRIALS),
                    (tuning_roles or {}).get(name, {}),
                ),
                titles=titles.get(name, {}),
                learned=learned.get(name, ()),
            )
            for name, files in experiments.items()
        },
        stores=stores,
        priors={
            name: {size: load_prior(path) for size, path in files.items()} for name, files in priors.items()
        },
        histories={
            name: {size: _history(histories.get(name, {}).get(size)) for size in files}
            for name, files in priors.items()
        },
        published=published.published("priors", source, target),
        nets=aggregation.read(nets, ("net", "seed", "accuracy", "nll")),
        scores=aggregation.scores_by_name(aggregation.read(scored, scores.COLUMNS), score_roles or {}),
        samples=aggregation.scores_by_name(aggregation.read(sampled, scores.SAMPLES), score_roles or {}),
        kinds=kinds or {},
        uses=uses or {},
        source=source,
        target=target,
    )
    contents = Contents(
        experiments={name: (switches or {}).get(name, ()) for name in experiments},
        sizes=list(stores),
        priors={
            name: {size: prior.kind for size, prior in sizes.items()}
            for name, sizes in results.priors.items()
        },
        nets=bool(nets),
        scores=bool(scored),
        tuned=list(tunings),
        uses=results.uses,
    )
    look: dict[str, Any] = dict(style or {})
    dpi = look.pop("dpi", DPI)
    methods = dict.fromkeys(name for one in results.experiments.values() for name in one.rows["method"])
    plot = Plot(methods=tuple(methods), **look)
    listed, folder = list(items(contents)), Path(output)
    for item in listed:
        if item is not FRONT:
            _write(_content(item, results, plot), item, folder, dpi)
    drawn = [item for item in listed if item.folder == "figures"]
    _write(front(results, drawn, folder, dpi=dpi, captions=captions or {}), FRONT, folder, dpi)
    return report_files(contents)


def _experiment(name: str, files: Sequence[str | Path], **others: Any) -> ExperimentResults:
    rows = aggregation.read(files)
    if not len(rows):
        raise InputError(f"report: the cells of experiment {name!r} hold no rows")
    return ExperimentResults(name, base.find(name), rows, **others)


def _history(file: str | Path | None) -> pd.DataFrame:
    return aggregation.read(filter(None, [file]), ("step", "metric", "value"))


def _content(item: Item, results: Results, plot: Plot) -> Content:
    """Return the content of an item, from the results of its experiment or of the whole run."""
    subject: Results | ExperimentResults = results
    if item.experiment:
        subject = results.experiments[item.experiment]
        plot = replace(plot, titles=subject.titles)
    function = item.make
    if isinstance(function, str):
        function = figures.find(function) if item.is_drawn else getattr(TEXT[item.folder], function)
    return function(subject, *([plot] if item.is_drawn else []), **item.options)


def _write(content: Content, item: Item, folder: Path, dpi: float) -> None:
    for suffix in item.formats:
        with atomic_write(folder / f"{item.name}.{suffix}") as temporary:
            _save(content, temporary, suffix, dpi)
        if isinstance(content, Figure):
            content.set_layout_engine("none")  # later formats keep the layout, which takes long to compute


def _save(content: Content, path: Path, suffix: str, dpi: float) -> None:
    if isinstance(content, Figure):
        content.savefig(path, format=suffix, dpi=dpi, metadata=_METADATA[suffix], bbox_inches="tight")
    elif isinstance(content, list):
        frames = [_image(frame, dpi) for frame in content]
        frames[0].save(
            path, "webp", save_all=True, append_images=frames[1:], duration=FRAME, loop=0, lossless=True
        )
    elif isinstance(content, pd.DataFrame):
        content.to_csv(path, index=False, lineterminator="\n")
    else:
        path.write_text(content, encoding="utf-8")


def _image(figure: Figure, dpi: float) -> Image.Image:
    """Return a frame; all of an animation have the size of their figures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB")
