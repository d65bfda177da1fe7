"""Making the report: every table and figure that `dwp.report.catalogue` lists."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from dwp.errors import InputError
from dwp.experiments import base as experiment_modules
from dwp.files import atomic_write
from dwp.kernels import store
from dwp.priors import scores
from dwp.priors.base import Prior, load_prior
from dwp.report import figures, published, tables
from dwp.report.catalogue import BY_STEP, PREDICTIVE, TITLES, Output, items, report_files

STYLE = {"dpi": 150, "font_size": 10}
AXES = {
    "examples": "training examples",
    "width": "width factor",
    "importance_samples": "importance samples K",
    "kernel_subset": "subset size m",
    "scale": "scale s",
}
# KL estimates of kernels that differ a hundredfold between priors: shown is the change from this setting.
CHANGE_FROM: dict[str, Callable[[Iterable[float]], float]] = {
    "kl_importance": min,
    "kl_subset": max,
    "kl_profile": lambda scales: min(scales, key=lambda scale: abs(scale - 1)),
}
# Without these, a viewer would see the date and the versions of libraries change the bytes.
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
    source: str = "",
    target: str = "",
    style: Mapping[str, object] | None = None,
) -> list[Output]:
    """Write all tables and figures of a run; the same inputs give the same bytes.

    Args:
        output: folder; gets `tables`, `pages` and `figures`.
        experiments: CSV files of cells (columns `dwp.experiments.COLUMNS`) by experiment.
        stores: kernel stores (`dwp.kernels.store.collect`) by size.
        priors: files of fitted priors, by name and size.
        histories: CSV files (step, metric, value) likewise; a prior that was not trained may lack one.
        nets: CSV files of source nets (net, seed, accuracy, nll); none where none were trained.
        scored: CSV files of `dwp.priors.scores.COLUMNS`, by size; none where no prior has a density.
        source: name of the data set that kernels come from; `target`, that experiments are on.
            The paper's numbers are shown where they are the paper's.
        style: `dpi`, `font_size` (see `dwp.report.figures`).

    Returns:
        What was written: `report_files` of the same names.

    Raises:
        InputError: an input is missing or is not what it should be.
    """
    fitted = {
        name: {size: load_prior(path) for size, path in files.items()} for name, files in priors.items()
    }
    kinds = {name: {size: prior.kind for size, prior in found.items()} for name, found in fitted.items()}
    cells = {name: tables.read(files) for name, files in experiments.items()}
    for name, rows in cells.items():
        if not len(rows):
            raise InputError(f"report: the cells of experiment {name!r} hold no rows")
    history = {
        name: {
            size: tables.read(filter(None, [histories.get(name, {}).get(size)]), ("step", "metric", "value"))
            for size in found
        }
        for name, found in fitted.items()
    }
    methods = dict.fromkeys(method for rows in cells.values() for method in rows["method"])
    style = {**STYLE, **(style or {}), "methods": list(methods)}
    made: dict[str, Callable[[], Figure | pd.DataFrame | str]] = {}
    for name, rows in cells.items():
        made |= _of_experiment(name, rows, published.published(name, source, target), style)
    made |= _of_kernels(stores, fitted, style)
    known = published.published("priors", source, target)
    made["figures/prior_training"] = lambda: figures.prior_training(history, known, style)
    made["tables/priors"] = lambda: tables.priors_table(fitted, history, stores)
    if nets:
        table = tables.read(nets, ("net", "seed", "accuracy", "nll"))
        made["figures/source_nets"] = lambda: figures.source_nets(table, style)
        made["tables/source_nets"] = lambda: tables.source_summary(table)
    if scored:
        densities = tables.read(scored, scores.COLUMNS)
        made["figures/scores"] = lambda: figures.scores(densities, style | {"methods": list(fitted)})
        made["pages/scores"] = lambda: tables.scores_page(densities)
        made["tables/scores"] = lambda: densities
    asked = [name for name, rows in cells.items() if rows["metric"].str.startswith("auroc_").any()]
    names = {"nets": bool(nets), "scores": bool(scored), "outliers": asked}
    for item in items(experiments, stores, kinds, **names):
        shown = made[item.name]()
        for suffix in item.formats:
            with atomic_write(Path(output) / f"{item.name}.{suffix}") as temporary:
                _save(shown, temporary, suffix, style["dpi"])
    return report_files(experiments, stores, kinds, **names)


def _of_experiment(name: str, rows: pd.DataFrame, known: pd.DataFrame, style: dict) -> dict[str, Callable]:
    summary, curves = tables.summarise(rows), tables.curves(rows)
    title = TITLES.get(name, name.replace("_", " ").capitalize())
    options = {"title": title, "axis": _axis(name)}
    found = list(dict.fromkeys(curves["metric"]))
    if name in BY_STEP:
        shown = {name: lambda: figures.by_step(curves, known, style, metrics=BY_STEP[name], **options)}
    else:
        # Where there are few examples, the prior matters most.
        first = curves[curves["setting"] == curves["setting"].min()]
        metrics = ("accuracy", "kl") if name == "few_shot" else found[:3]
        panels = 2 if name == "random_features" else 3
        compared = CHANGE_FROM[name](set(summary["setting"])) if name in CHANGE_FROM else None
        shown = {
            name: lambda: figures.by_setting(
                summary, known, style, panels=panels, change_from=compared, **options
            ),
            f"{name}_curves": lambda: figures.by_step(first, known, style, metrics=metrics, **options),
        }
    data = {
        f"pages/{name}": lambda: tables.page(summary, known, title),
        f"tables/{name}": lambda: summary,
        f"tables/{name}_curves": lambda: curves,
    }
    if name in PREDICTIVE:
        shown |= {
            f"{name}_reliability": lambda: figures.reliability(tables.reliability(rows), style, **options),
            f"{name}_outliers": lambda: figures.outliers(summary, style, **options),
            f"{name}_cost": lambda: figures.cost(summary, style, **options),
        }
        data[f"tables/{name}_reliability"] = lambda: tables.reliability(rows)
    return {f"figures/{key}": draw for key, draw in shown.items()} | data


def _of_kernels(
    stores: Mapping[int, str | Path], fitted: Mapping[str, Mapping[int, Prior]], style: dict
) -> dict[str, Callable]:
    made: dict[str, Callable] = {
        "figures/norms": lambda: figures.norms(
            {size: vars(store.pruning(path)) for size, path in stores.items()}, style
        ),
        "tables/kernels": lambda: tables.kernels_table(stores),
    }
    for size, path in stores.items():
        # Bound now, since the loop moves on before anything is drawn.
        learned = partial(store.load, path, "test")
        here = {name: found[size] for name, found in fitted.items() if size in found}
        square = f"{size}x{size}"
        made[f"figures/kernels-{square}"] = partial(_draw, figures.kernels, learned, priors=here, style=style)
        for name, prior in here.items():
            drawing = partial(_draw, figures.latent_space, learned, prior=prior, style=style, name=name)
            made[f"figures/latent_space-{name}-{square}"] = drawing
    return made


def _draw(figure: Callable[..., Figure], learned: Callable[[], Tensor], **options: object) -> Figure:
    return figure(learned=learned(), **options)


def _axis(experiment: str) -> str:
    try:
        axis = experiment_modules.find(experiment).AXIS
    except InputError:
        return "setting"
    return AXES.get(axis, axis.replace("_", " "))


def _save(shown: Figure | pd.DataFrame | str, path: Path, suffix: str, dpi: float) -> None:
    if isinstance(shown, Figure):
        shown.savefig(path, format=suffix, dpi=dpi, metadata=_METADATA[suffix], bbox_inches="tight")
    elif isinstance(shown, pd.DataFrame):
        shown.to_csv(path, index=False, lineterminator="\n")
    else:
        path.write_text(shown, encoding="utf-8")
