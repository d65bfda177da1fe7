"""Synthetic results of experiments and scores of priors, for tests of the report."""

import numpy as np
import pandas as pd

from dwp.experiments import base
from dwp.experiments.base import COLUMNS
from dwp.experiments.methods import PriorUse
from dwp.priors import scores
from dwp.report import published
from dwp.report.results import ExperimentResults, Results


def rows(*cells: tuple) -> pd.DataFrame:
    """Return rows of (experiment, method, setting, seed, step, metric, value), or with `part` before it."""
    return pd.DataFrame(
        [(*cell[:6], *(cell[6:] if len(cell) == 8 else ("", cell[6]))) for cell in cells], columns=COLUMNS
    )


def results(table: pd.DataFrame, name: str = "", source: str = "", target: str = "") -> ExperimentResults:
    """Return the results of an experiment, by default the experiment of the rows."""
    name = name or table["experiment"].iloc[0]
    return ExperimentResults(name, base.find(name), table, published.published(name, source, target))


def run_results(**parts) -> Results:
    """Return the results of a run with only these parts."""
    nothing = {"experiments": {}, "stores": {}, "priors": {}, "histories": {}}
    return Results(**nothing | {"published": published.published("priors", "", "")} | parts)


def synthetic(experiment: str, methods: list[str], settings: list[float], seeds: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    last = ["auroc_entropy", "auroc_mutual_information", "train_flops", "predict_flops"]
    last += [(f"bin_{name}", str(b)) for b in (9, 14) for name in ("confidence", "accuracy", "fraction")]
    return rows(
        *(
            (experiment, method, setting, seed, step, *_part(metric), rng.uniform(0.2, 0.9))
            for method in methods
            for setting in settings
            for seed in range(seeds)
            for step in (0, 50, 100)
            for metric in (
                "accuracy",
                "nll",
                "ece",
                "kl",
                *(last if experiment == "few_shot" and step == 100 else ()),
            )
        )
    )


def _part(metric: str | tuple[str, str]) -> tuple[str, str]:
    return (metric, "") if isinstance(metric, str) else metric


def sampled(size: int) -> pd.DataFrame:
    """Return samples of a VAE, with and without noise, and of learned filters, beside held-out kernels."""
    cells = [
        ("", "", "held_out"),
        ("vae", "vae", "sample"),
        ("vae", "vae", "mean"),
        ("filters", "empirical", "sample"),
    ]
    costs = {"fit_seconds": np.nan, "sample_seconds": np.nan}
    rows = []
    for number, names in enumerate(cells):
        row = dict.fromkeys(scores.SAMPLES, number / 10) | {"size": size, "kernels": 100} | costs
        rows.append(
            row
            | dict(zip(("prior", "kind", "draw"), names, strict=True))
            | {"bytes": 1000 * number or np.nan}
        )
    return pd.DataFrame(rows)


def scored(size: int) -> pd.DataFrame:
    """Return scores of a VAE, a Gaussian, and a standard normal far below both."""
    cells = [("vae", "vae", False, count, 48 + count / 10) for count in (1, 5)]
    cells += [("gauss", "gaussian", True, 1, 46.5), ("standard_normal", "standard_normal", True, 1, -45.9)]
    return pd.DataFrame(
        [(size, *cell[:4], 100, cell[4], 0.25) for cell in cells], columns=list(scores.COLUMNS)
    )


def prior_run(
    densities: dict[str, float], uses: dict[str, PriorUse], settings: tuple[float, ...] = (50,), **parts
) -> Results:
    """Return a run with few-shot results of methods, and the same scores and samples of priors at each size.

    Args:
        densities: log density of each prior; NaN for a prior with samples only.
        uses: how each method uses a prior.
        settings: numbers of examples.
        parts: further parts of the results.
    """
    sizes = dict.fromkeys(size for use in uses.values() for size in use.sizes)
    known = {name: value for name, value in densities.items() if not np.isnan(value)}
    scored_rows = [
        (size, name, "flow", True, 1, 100, value, 0.5) for size in sizes for name, value in known.items()
    ]
    draws = [("", "", "held_out"), *((name, "flow", "sample") for name in densities)]
    sampled_rows = [
        dict.fromkeys(scores.SAMPLES, number / 10)
        | dict(zip(("size", "prior", "kind", "draw"), (size, *names), strict=True))
        for size in sizes
        for number, names in enumerate(draws)
    ]
    few_shot = results(synthetic("few_shot", list(uses), list(settings), 3))
    return run_results(
        experiments={"few_shot": few_shot},
        uses=uses,
        scores=pd.DataFrame(scored_rows, columns=list(scores.COLUMNS)),
        samples=pd.DataFrame(sampled_rows),
        **parts,
    )
