"""Run one method of an experiment on a shard of seeds; reuse seeds that other shards have completed."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dwp.data import dataset as images
from dwp.data import text
from dwp.data.splits import halved_test_set
from dwp.experiments import _tuning as tuning
from dwp.experiments import base, methods
from dwp.experiments.task import run
from dwp.files import atomic_write
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.pipeline.shards import Completed, numbers
from dwp.pipeline.stages.source import load_nets
from dwp.pipeline.typed import parse
from dwp.priors.base import collection

logger = logging.getLogger("dwp")


def main(job: Job) -> None:
    """Write the rows of one method, at one setting or at all of them."""
    params, wildcards, files = job.params, job.wildcards, job.input
    seeds = numbers(wildcards.shard)
    declared = base.find(wildcards.experiment)
    own, method = params["settings"], params["method"]
    if "tuning" in files.keys():  # noqa: SIM118
        chosen = json.loads(Path(files.tuning).read_text(encoding="utf-8"))
        own, method = tuning.apply(declared, own, method, chosen)
        job.record(chosen=chosen)
        logger.info("chosen by %s: %s", files.tuning, tuning.describe(chosen))
    # Only the settings of this job.
    cell = {"seeds": len(seeds), "shard": len(seeds), "methods": {wildcards.method: method}}
    if declared.trains:
        cell[declared.axis] = [json.loads(wildcards.setting)]
    settings = parse(declared.settings, own | cell)
    method = settings.methods[wildcards.method]
    dataset: Any = (text if declared.reads == "text" else images).load(files.dataset)
    # The chosen trial may need none of the source networks that others need.
    pretrained = files.get("pretrained", []) if methods.is_pretrained(method) else []
    nets = methods.source_nets(getattr(method, "members", 1), seeds)
    shared = {
        "settings": settings,
        "method": method,
        "dataset": halved_test_set(dataset) if params.get("trial_images") == "test" else dataset,
        "priors": collection(
            paths.priors_by_role(files.get("priors", []), job.spec["inputs"]),
            params["priors"],
            settings.network.kernel_sizes(),
        ),
        "device": job.device,
        "outliers": images.load(files.outliers) if "outliers" in files.keys() else None,  # noqa: SIM118
        "pretrained": load_nets(pretrained, nets),
        "checkpoint": job.checkpoint(),
    }
    there = dict(completed_seeds(job.completed_elsewhere(), wildcards.method))
    rows = []
    for seed in seeds:
        if seed in there:
            rows += there[seed]
            continue
        try:
            rows += run(wildcards.experiment, wildcards.method, seed, **shared)
        except FloatingPointError as error:
            if "trial_images" not in params:
                raise
            logger.warning("diverged: %s", error)
            rows += diverged(wildcards.experiment, wildcards.method, settings, seed)
    with atomic_write(job.output.rows) as temporary:
        pd.DataFrame(rows, columns=base.COLUMNS).to_csv(temporary, index=False)


def diverged(experiment: str, method: str, settings: base.ExperimentSettings, seed: int) -> Iterator[dict]:
    """Yield the rows of a trial that has diverged: each metric is NaN."""
    declared = base.find(experiment)
    for value in getattr(settings, declared.axis):
        cell = {"experiment": experiment, "method": method, "setting": float(value), "seed": seed}
        for metric in declared.metrics:
            yield {**cell, "step": 0, "metric": metric.name, "part": "", "value": float("nan")}


def completed_seeds(shards: Iterable[Completed], method: str) -> Iterator[tuple[int, list[dict]]]:
    """Yield each seed that other shards have completed, with its rows, under the name of this method."""
    for shard in shards:
        # Pandas' default parser can be wrong in the last digit.
        table = pd.read_csv(shard.files["csv"], float_precision="round_trip", dtype={"part": str})
        table = table.fillna({"part": ""}).assign(method=method)
        for seed in shard.numbers:
            yield seed, table.loc[table["seed"] == seed].to_dict("records")
