"""Run one method of an experiment with a shard of seeds; take over those that others have completed."""

from collections.abc import Iterable, Iterator

import pandas as pd

from dwp.data.dataset import load
from dwp.experiments import base as experiments
from dwp.experiments import source_nets
from dwp.files import atomic_write
from dwp.nn.convnet import kernel_sizes
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.pipeline.shards import Completed, numbers
from dwp.priors.base import collection


def main(job: Job) -> None:
    """Make the rows of one method, at one setting or at all of them."""
    params, wildcards, files = job.params, job.wildcards, job.input
    seeds = numbers(wildcards.shard)
    task = experiments.Task(
        setting=None if wildcards.setting == "all" else float(wildcards.setting),
        seed=0,
        settings=params["settings"],
        method=params["method"],
        dataset=load(files.dataset),
        priors=collection(
            paths.priors_by_name(files.get("priors", [])),
            params["priors"],
            kernel_sizes(params["settings"]["network"]),
        ),
        device=job.device,
        outliers=load(files.outliers) if "outliers" in files.keys() else None,  # noqa: SIM118
        pretrained=source_nets.load_nets(files.get("pretrained", []), seeds),
        checkpoint=job.checkpoint(),
    )
    there = dict(completed_seeds(job.completed_elsewhere()))
    rows = []
    for seed in seeds:
        if seed in there:
            rows += there[seed]
        else:
            rows += experiments.run(wildcards.experiment, wildcards.method, task, [seed])
    with atomic_write(job.output.rows) as temporary:
        pd.DataFrame(rows, columns=experiments.COLUMNS).to_csv(temporary, index=False)


def completed_seeds(shards: Iterable[Completed]) -> Iterator[tuple[int, list[dict]]]:
    """Yield the rows of the seeds that other shards have completed, by seed."""
    for shard in shards:
        # Pandas' quick parser may be wrong in the last digit.
        table = pd.read_csv(shard.files["csv"], float_precision="round_trip")
        for seed in shard.numbers:
            yield seed, table.loc[table["seed"] == seed].to_dict("records")
