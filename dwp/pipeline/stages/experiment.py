"""Run one method of an experiment on a shard of seeds; reuse seeds that other shards have completed."""

import json
from collections.abc import Iterable, Iterator

import pandas as pd

from dwp.data.dataset import load
from dwp.experiments import base
from dwp.experiments.task import run
from dwp.files import atomic_write
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.pipeline.shards import Completed, numbers
from dwp.pipeline.stages.source import load_nets
from dwp.pipeline.typed import parse
from dwp.priors.base import collection


def main(job: Job) -> None:
    """Write the rows of one method, at one setting or at all of them."""
    params, wildcards, files = job.params, job.wildcards, job.input
    seeds = numbers(wildcards.shard)
    declared = base.find(wildcards.experiment)
    # Only the settings of this job.
    cell = {"seeds": len(seeds), "shard": len(seeds), "methods": {wildcards.method: params["method"]}}
    if declared.trains:
        cell[declared.axis] = [json.loads(wildcards.setting)]
    settings = parse(declared.settings, params["settings"] | cell)
    shared = {
        "settings": settings,
        "method": settings.methods[wildcards.method],
        "dataset": load(files.dataset),
        "priors": collection(
            paths.priors_by_name(files.get("priors", [])),
            params["priors"],
            settings.network.kernel_sizes(),
        ),
        "device": job.device,
        "outliers": load(files.outliers) if "outliers" in files.keys() else None,  # noqa: SIM118
        "pretrained": load_nets(files.get("pretrained", []), seeds),
        "checkpoint": job.checkpoint(),
    }
    there = dict(completed_seeds(job.completed_elsewhere()))
    rows = []
    for seed in seeds:
        if seed in there:
            rows += there[seed]
        else:
            rows += run(wildcards.experiment, wildcards.method, seed, **shared)
    with atomic_write(job.output.rows) as temporary:
        pd.DataFrame(rows, columns=base.COLUMNS).to_csv(temporary, index=False)


def completed_seeds(shards: Iterable[Completed]) -> Iterator[tuple[int, list[dict]]]:
    """Yield each seed that other shards have completed, with its rows."""
    for shard in shards:
        # Pandas' default parser can be wrong in the last digit.
        table = pd.read_csv(shard.files["csv"], float_precision="round_trip", dtype={"part": str})
        table = table.fillna({"part": ""})
        for seed in shard.numbers:
            yield seed, table.loc[table["seed"] == seed].to_dict("records")
