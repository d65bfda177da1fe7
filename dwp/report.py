"""The report: which tables and figures there are, known from names alone, and making them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from dwp import experiments as experiment_modules
from dwp import figures, kernels, paper, tables
from dwp.errors import InputError
from dwp.files import whole
from dwp.priors import Prior, find, load_prior

STYLE = {"dpi": 150, "font_size": 10}
TITLES = {
    "few_shot": "Few-shot classification",
    "convergence": "Convergence from different initialisations",
    "random_features": "Random features: convolutions fixed, the rest trained",
    "image_vae": "VAE over images from different initialisations",
    "kl_importance": "KL estimates by importance samples",
    "kl_subset": "KL estimates by subset of kernels",
    "kl_profile": "KL around learned kernels, scaled",
}
# Experiments about the course of training, with the metrics that their one figure shows by step.
BY_STEP = {
    "convergence": ("accuracy", "nll"),
    "image_vae": ("lower_bound", "reconstruction", "code_kl"),
}
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


@dataclass(frozen=True)
class Output:
    """A file of the report: its path in the report's folder, where it is listed, and its caption's file."""

    path: str
    category: str
    labels: dict[str, str]
    caption: str


@dataclass(frozen=True)
class _Item:
    # Path without its suffix.
    name: str
    category: str
    label: str
    caption: str
    formats: tuple[str, ...]


def report_files(
    experiments: Iterable[str],
    sizes: Iterable[int],
    priors: Mapping[str, Mapping[int, str]],
    *,
    nets: bool = True,
) -> list[Output]:
    """Return every file that `make` writes, in order, without reading anything.

    Args:
        experiments: their names; those that this module has no figure for get a general one.
        sizes: kernel sizes.
        priors: kind of each fitted prior, by name and size.
        nets: whether source nets were trained here.

    Raises:
        InputError: a kind of prior is not known.
    """
    return [
        Output(
            f"{item.name}.{suffix}",
            item.category,
            {"shows": item.label, "format": suffix.upper()},
            f"{item.caption}.rst",
        )
        for item in _items(experiments, sizes, priors, nets)
        for suffix in item.formats
    ]


def make(
    output: str | Path,
    *,
    experiments: Mapping[str, Sequence[str | Path]],
    stores: Mapping[int, str | Path],
    priors: Mapping[str, Mapping[int, str | Path]],
    histories: Mapping[str, Mapping[int, str | Path]],
    nets: Sequence[str | Path] = (),
    source: str = "",
    target: str = "",
    style: Mapping[str, object] | None = None,
) -> list[Output]:
    """Write all tables and figures of a run; the same inputs give the same bytes.

    Args:
        output: folder; gets `tables`, `pages` and `figures`.
        experiments: CSV files of cells (columns `dwp.experiments.COLUMNS`) by experiment.
        stores: kernel stores (`dwp.kernels.collect`) by size.
        priors: files of fitted priors, by name and size.
        histories: CSV files (step, metric, value) likewise; a prior that was not trained may lack one.
        nets: CSV files of source nets (net, accuracy, nll, seconds); none where none were trained.
        source: name of the data set that kernels come from; `target`, that experiments are on.
            The paper's numbers are shown where they are the paper's.
        style: `dpi`, `font_size`, `palette` (see `dwp.figures`).

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
        made |= _of_experiment(name, rows, paper.published(name, source, target), style)
    made |= _of_kernels(stores, fitted, style)
    known = paper.published("priors", source, target)
    made["figures/prior_training"] = lambda: figures.prior_training(history, known, style)
    made["tables/priors"] = lambda: tables.priors_table(fitted, history, stores)
    if nets:
        table = tables.read(nets, ("net", "accuracy", "nll", "seconds"))
        made["figures/source_nets"] = lambda: figures.source_nets(table, style)
        made["tables/source_nets"] = lambda: tables.source_summary(table)
    for item in _items(experiments, stores, kinds, bool(nets)):
        shown = made[item.name]()
        for suffix in item.formats:
            with whole(Path(output) / f"{item.name}.{suffix}") as temporary:
                _save(shown, temporary, suffix, style["dpi"])
    return report_files(experiments, stores, kinds, nets=bool(nets))


def _items(
    experiments: Iterable[str], sizes: Iterable[int], priors: Mapping[str, Mapping[int, str]], nets: bool
) -> Iterator[_Item]:
    sizes = list(sizes)
    for name in experiments:
        label = TITLES.get(name, name.replace("_", " ").capitalize()).split(":")[0]
        caption = name if name in TITLES else "experiment"
        yield _figure(name, "Experiments", label, caption)
        if name not in (*BY_STEP, "random_features") and _trains(name):
            yield _figure(f"{name}_curves", "Experiments", f"{label}, by step", f"{caption}_curves")
        yield _Item(f"pages/{name}", "Experiments", f"{label}, table", "experiment_page", ("html",))
        yield _table(name, "Experiments", f"{label}, end of training", "experiment_table")
        if _trains(name):
            yield _table(f"{name}_curves", "Experiments", f"{label}, all steps", "experiment_curves_table")
    for size in sizes:
        yield _figure(f"kernels-{size}x{size}", "Priors", f"Kernels and samples, {size}×{size}", "kernels")
    for name, kinds in priors.items():
        for size, kind in kinds.items():
            if _has_codes(find(kind)):
                label = f"Latent space of {name}, {size}×{size}"
                yield _figure(f"latent_space-{name}-{size}x{size}", "Priors", label, "latent_space")
    if priors:
        yield _figure("prior_training", "Priors", "Training of the priors", "prior_training")
        yield _table("priors", "Priors", "Fitted priors", "priors_table")
    yield _figure("norms", "Source kernels", "Norms and pruning", "norms")
    yield _table("kernels", "Source kernels", "Pruning", "kernels_table")
    if nets:
        yield _figure("source_nets", "Source kernels", "Accuracy of the source nets", "source_nets")
        yield _table("source_nets", "Source kernels", "Source nets", "source_nets_table")


def _figure(name: str, category: str, label: str, caption: str) -> _Item:
    return _Item(f"figures/{name}", category, label, caption, ("png", "pdf"))


def _table(name: str, category: str, label: str, caption: str) -> _Item:
    return _Item(f"tables/{name}", category, label, caption, ("csv",))


def _has_codes(prior: object) -> bool:
    return hasattr(prior, "encode") and hasattr(prior, "decode")


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
    return {f"figures/{key}": draw for key, draw in shown.items()} | {
        f"pages/{name}": lambda: tables.page(summary, known, title),
        f"tables/{name}": lambda: summary,
        f"tables/{name}_curves": lambda: curves,
    }


def _of_kernels(
    stores: Mapping[int, str | Path], fitted: Mapping[str, Mapping[int, Prior]], style: dict
) -> dict[str, Callable]:
    made: dict[str, Callable] = {
        "figures/norms": lambda: figures.norms(
            {size: _histogram(path) for size, path in stores.items()}, style
        ),
        "tables/kernels": lambda: tables.kernels_table(stores),
    }
    for size, path in stores.items():
        # Bound now, since the loop moves on before anything is drawn.
        learned = partial(kernels.load, path, "test")
        here = {name: found[size] for name, found in fitted.items() if size in found}
        square = f"{size}x{size}"
        made[f"figures/kernels-{square}"] = partial(_draw, figures.kernels, learned, priors=here, style=style)
        for name, prior in here.items():
            drawing = partial(_draw, figures.latent_space, learned, prior=prior, style=style, name=name)
            made[f"figures/latent_space-{name}-{square}"] = drawing
    return made


def _draw(figure: Callable[..., Figure], learned: Callable[[], Tensor], **options: object) -> Figure:
    return figure(learned=learned(), **options)


def _trains(experiment: str) -> bool:
    try:
        return experiment_modules.trains(experiment)
    except InputError:
        return True


def _axis(experiment: str) -> str:
    try:
        axis = experiment_modules.find(experiment).AXIS
    except InputError:
        return "setting"
    return AXES.get(axis, axis.replace("_", " "))


def _histogram(path: str | Path) -> dict:
    with h5py.File(path, "r") as store:
        attributes = {key: store.attrs[key] for key in ("threshold", "rule", "before", "after")}
        return {
            "counts": store["histogram/counts"][:],
            "log10_edges": store["histogram/log10_edges"][:],
            **attributes,
        }


def _save(shown: Figure | pd.DataFrame | str, path: Path, suffix: str, dpi: float) -> None:
    if isinstance(shown, Figure):
        shown.savefig(path, format=suffix, dpi=dpi, metadata=_METADATA[suffix], bbox_inches="tight")
    elif isinstance(shown, pd.DataFrame):
        shown.to_csv(path, index=False, lineterminator="\n")
    else:
        path.write_text(shown, encoding="utf-8")
