"""Catalogue of the report's tables, pages and figures, known before anything runs.

An item names the function that makes it, so that planning imports neither PyTorch nor
Matplotlib. Each experiment declares its own figures and tables.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dwp.errors import InputError
from dwp.experiments import base
from dwp.experiments.methods import PriorUse
from dwp.priors.settings import find


@dataclass(frozen=True)
class Output:
    """A file of the report: its path in the report's folder, category, labels and caption file."""

    path: str
    category: str
    labels: dict[str, str]
    caption: str


@dataclass(frozen=True)
class Contents:
    """The contents of a report.

    Attributes:
        experiments: names of the experiments, each with the names of its boolean settings that are true.
        sizes: kernel sizes.
        priors: kind of each fitted prior, by name and size.
        nets: whether source networks were trained by the workflow.
        scores: whether priors were scored on held-out kernels.
        tuned: names of the experiments with tuned methods.
        uses: how methods of the compared experiment that use one prior alone use it, if priors were scored.
    """

    experiments: Mapping[str, Sequence[str]]
    sizes: Sequence[int]
    priors: Mapping[str, Mapping[int, str]]
    nets: bool = True
    scores: bool = False
    tuned: Sequence[str] = ()
    uses: Mapping[str, PriorUse] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A table, page or figure in its formats.

    Attributes:
        name: its path in the report's folder without the suffix: 'figures/…', 'animations/…', 'tables/…',
            'pages/…'.
        category: its heading in the listing.
        label: its label in the listing.
        caption: file in `workflow/report`, without its suffix.
        make: a function, or the name of one in `dwp.report.figures`, `.tables` or `.pages`,
            according to the folder; see `dwp.report.build`.
        each: '' for one item; 'size' or 'latent prior' for one item each; 'sizes', 'priors', 'scores',
            'uses' or 'nets' for one item if the report has any.
        options: further arguments of the function.
        experiment: name of the experiment whose results it shows; '' for the whole run.
    """

    name: str
    category: str
    label: str
    caption: str
    make: str | Callable[..., Any]
    each: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    experiment: str = ""

    @property
    def folder(self) -> str:
        """Return 'figures', 'animations', 'tables' or 'pages'."""
        return self.name.partition("/")[0]

    @property
    def formats(self) -> tuple[str, ...]:
        """Return the suffixes of its files."""
        return {
            "figures": ("png", "pdf"),
            "animations": ("webp",),
            "tables": ("csv",),
            "pages": ("html",),
        }[self.folder]

    @property
    def is_drawn(self) -> bool:
        """Return whether its function is one of `dwp.report.figures`."""
        return self.folder in ("figures", "animations")

    def of(self, options: Mapping[str, Any]) -> "Item":
        """Return the item for one size or prior: `options` complete its name and label, and are kept."""
        name, label = self.name.format(**options), self.label.format(**options)
        return Item(name, self.category, label, self.caption, self.make, options=options)


FRONT = Item("pages/report", "At a glance", "Findings and all figures", "report", "front")
"""The page of all findings and figures, made after all other items."""

FINDINGS = Item("figures/findings", "At a glance", "Findings", "findings", "findings")

_SCORES = "Held-out kernels under each prior"

ITEMS = (
    Item(
        "figures/kernels-{size}x{size}",
        "Priors",
        "Kernels and samples, {size}×{size}",
        "kernels",
        "kernels",
        "size",
    ),
    Item(
        "figures/latent_space-{prior}-{size}x{size}",
        "Priors",
        "Latent space of {prior}, {size}×{size}",
        "latent_space",
        "latent_space",
        "latent prior",
    ),
    Item(
        "figures/prior_training",
        "Priors",
        "Training of the priors",
        "prior_training",
        "prior_training",
        "priors",
    ),
    Item("tables/priors", "Priors", "Fitted priors", "priors_table", "priors", "priors"),
    Item(
        "figures/prior_comparison",
        "Priors",
        "Density and accuracy of each prior",
        "prior_comparison",
        "prior_comparison",
        "uses",
    ),
    Item(
        "tables/prior_comparison",
        "Priors",
        "Comparison of the priors",
        "prior_comparison_table",
        "prior_comparison",
        "scores",
    ),
    Item("figures/scores", "Priors", _SCORES, "scores", "scores", "scores"),
    Item("pages/scores", "Priors", "Comparison of the priors, table", "scores_page", "scores", "scores"),
    Item("tables/scores", "Priors", _SCORES, "scores_table", "scores", "scores"),
    Item("tables/samples", "Priors", "Samples of each prior", "samples_table", "samples", "scores"),
    Item("figures/norms", "Source kernels", "Norms and pruning", "norms", "norms", "sizes"),
    Item("tables/kernels", "Source kernels", "Pruning", "kernels_table", "kernels", "sizes"),
    Item(
        "figures/source_nets",
        "Source kernels",
        "Accuracy of the source nets",
        "source_nets",
        "source_nets",
        "nets",
    ),
    Item("tables/source_nets", "Source kernels", "Source nets", "source_nets_table", "source_nets", "nets"),
)
"""Items of every report, in addition to the figures and tables of its experiments."""


def items(contents: Contents) -> Iterator[Item]:
    """Yield every table, page and figure of a report, in order, without reading anything.

    Raises:
        InputError: an experiment or a kind of prior is not known.
    """
    yield FRONT
    if compared(contents.experiments):
        yield FINDINGS
    for name, switches in contents.experiments.items():
        yield from _of_experiment(name, switches, name in contents.tuned)
    for item in ITEMS:
        for options in _cases(item.each, contents):
            yield item.of(options)


def report_files(contents: Contents) -> list[Output]:
    """Return every file that `build.make` writes, in order, without reading anything.

    Raises:
        InputError: an experiment or a kind of prior is not known.
    """
    return [
        Output(
            f"{item.name}.{suffix}",
            item.category,
            {"shows": item.label, "format": suffix.upper()},
            f"{item.caption}.rst",
        )
        for item in items(contents)
        for suffix in item.formats
    ]


def compared(experiments: Iterable[str]) -> str | None:
    """Return the experiment that the findings are about, or None.

    It is the first that trains networks and whose first metric has a better direction.

    Raises:
        InputError: an experiment is not known.
    """
    declared = ((name, base.find(name)) for name in experiments)
    return next((name for name, one in declared if one.trains and one.metrics[0].better), None)


def check_captions(captions: Iterable[str], folder: str | Path) -> None:
    """Raise InputError, before a run starts, for the first caption whose file is not in the folder."""
    for caption in captions:
        if not Path(folder, caption).is_file():
            raise InputError(
                f"report: there is no caption {Path(folder, caption)}; write a line or two there"
            )


def _of_experiment(name: str, switches: Sequence[str], tuned: bool) -> Iterator[Item]:
    experiment = base.find(name)
    title = experiment.title.partition(":")[0]

    def item(
        folder: str, suffix: str, label: str, caption: str, make: str | Callable, **options: Any
    ) -> Item:
        path = f"{folder}/{name}_{suffix}" if suffix else f"{folder}/{name}"
        heading = f"{title}, {label}" if label else title
        return Item(path, "Experiments", heading, caption, make, options=options, experiment=name)

    for folder, drawn in (("figures", experiment.figures), ("animations", experiment.animations)):
        for figure in drawn:
            if not figure.requires or figure.requires in switches:
                yield item(folder, figure.suffix, figure.label, figure.caption, figure.draw, **figure.options)
    yield item("pages", "", "table", "experiment_page", "experiment")
    yield item("tables", "", "end of training", "experiment_table", "summary")
    if experiment.trains:
        yield item("tables", "paired", "paired differences", "experiment_paired_table", "paired")
        yield item("tables", "curves", "all steps", "experiment_curves_table", "curves")
    if tuned:
        yield item("figures", "tuning", "trials of the tuned methods", "tuning", "tuning")
        yield item("tables", "tuning", "tuned settings", "tuning_table", "tuning")
    for table in experiment.tables:
        yield item("tables", table.suffix, table.label, table.caption, table.make)


def _cases(each: str, contents: Contents) -> list[dict[str, Any]]:
    """Return the options of each case of an item, see `Item.each`."""
    if each == "size":
        return [{"size": size} for size in contents.sizes]
    if each == "latent prior":
        return [
            {"prior": name, "size": size}
            for name, kinds in contents.priors.items()
            for size, kind in kinds.items()
            if find(kind).has_codes
        ]
    return [{}] if not each or getattr(contents, each) else []
