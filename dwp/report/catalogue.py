"""Which tables and figures a report holds: known from names alone, before anything runs."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dwp.errors import InputError
from dwp.experiments import base as experiments_module
from dwp.priors.base import find

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
# Experiments that say how sure their predictions are, and what training and predicting cost.
PREDICTIVE = ("few_shot",)


@dataclass(frozen=True)
class Output:
    """A file of the report: its path in the report's folder, where it is listed, and its caption's file."""

    path: str
    category: str
    labels: dict[str, str]
    caption: str


@dataclass(frozen=True)
class Item:
    """A table or figure in its formats; `name` is its path without the suffix."""

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
    scores: bool = False,
    outliers: Collection[str] = (),
) -> list[Output]:
    """Return every file that `report.make` writes, in order, without reading anything.

    Args:
        experiments: their names; those that the report has no figure for get a general one.
        sizes: kernel sizes.
        priors: kind of each fitted prior, by name and size.
        nets: whether source nets were trained here.
        scores: whether priors were scored on held-out kernels.
        outliers: the experiments that told the source data set's images from the target's.

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
        for item in items(experiments, sizes, priors, nets=nets, scores=scores, outliers=outliers)
        for suffix in item.formats
    ]


def check_captions(captions: Iterable[str], folder: str | Path) -> None:
    """Raise InputError for the first caption whose file is not in the folder, before a run finds that out."""
    for caption in captions:
        if not Path(folder, caption).is_file():
            raise InputError(
                f"report: there is no caption {Path(folder, caption)}; write a line or two there"
            )


def items(
    experiments: Iterable[str],
    sizes: Iterable[int],
    priors: Mapping[str, Mapping[int, str]],
    *,
    nets: bool,
    scores: bool,
    outliers: Collection[str],
) -> Iterator[Item]:
    """Yield what `report_files` lists, each table and figure once."""
    sizes = list(sizes)
    for name in experiments:
        label = TITLES.get(name, name.replace("_", " ").capitalize()).split(":")[0]
        caption = name if name in TITLES else "experiment"
        yield _figure(name, "Experiments", label, caption)
        if name not in (*BY_STEP, "random_features") and _trains(name):
            yield _figure(f"{name}_curves", "Experiments", f"{label}, by step", f"{caption}_curves")
        if name in PREDICTIVE:
            yield _figure(f"{name}_reliability", "Experiments", f"{label}, reliability", "reliability")
            if name in outliers:
                yield _figure(f"{name}_outliers", "Experiments", f"{label}, outliers", "outliers")
            yield _figure(f"{name}_cost", "Experiments", f"{label}, accuracy by cost", "cost")
        yield Item(f"pages/{name}", "Experiments", f"{label}, table", "experiment_page", ("html",))
        yield _table(name, "Experiments", f"{label}, end of training", "experiment_table")
        if _trains(name):
            yield _table(f"{name}_curves", "Experiments", f"{label}, all steps", "experiment_curves_table")
        if name in PREDICTIVE:
            yield _table(f"{name}_reliability", "Experiments", f"{label}, reliability", "reliability_table")
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
    if scores:
        yield _figure("scores", "Priors", "Held-out kernels under each prior", "scores")
        yield Item("pages/scores", "Priors", "Held-out kernels under each prior, table", "scores", ("html",))
        yield _table("scores", "Priors", "Held-out kernels under each prior", "scores_table")
    yield _figure("norms", "Source kernels", "Norms and pruning", "norms")
    yield _table("kernels", "Source kernels", "Pruning", "kernels_table")
    if nets:
        yield _figure("source_nets", "Source kernels", "Accuracy of the source nets", "source_nets")
        yield _table("source_nets", "Source kernels", "Source nets", "source_nets_table")


def _trains(experiment: str) -> bool:
    try:
        return experiments_module.trains(experiment)
    except InputError:
        return True


def _figure(name: str, category: str, label: str, caption: str) -> Item:
    return Item(f"figures/{name}", category, label, caption, ("png", "pdf"))


def _table(name: str, category: str, label: str, caption: str) -> Item:
    return Item(f"tables/{name}", category, label, caption, ("csv",))


def _has_codes(prior: object) -> bool:
    return hasattr(prior, "encode") and hasattr(prior, "decode")
