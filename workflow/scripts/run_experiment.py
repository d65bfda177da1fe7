"""Run one method of an experiment, at one setting or at all of them, with a shard of seeds."""

import pandas as pd

from dwp.data.dataset import load
from dwp.experiments import base as experiments
from dwp.experiments import source_nets
from dwp.files import atomic_write
from dwp.nn.spec import Network
from dwp.pipeline.job import Job
from dwp.pipeline.shards import numbers
from dwp.pipeline.typed import parse
from dwp.priors.base import collection


def main(job: Job) -> None:
    params, wildcards, files = job.params, job.wildcards, job.input
    seeds = numbers(wildcards.shard)
    task = experiments.Task(
        setting=None if wildcards.setting == "all" else float(wildcards.setting),
        seed=0,
        settings=params["settings"],
        method=params["method"],
        dataset=load(files.dataset),
        priors=collection(
            files.get("priors", []),
            params["priors"],
            parse(Network, params["settings"]["network"]).kernel_sizes(),
        ),
        device=job.device,
        outliers=load(files.outliers) if "outliers" in files.keys() else None,  # noqa: SIM118
        pretrained=source_nets.load_nets(files.get("pretrained", []), seeds),
        checkpoint=job.checkpoint(),
    )
    rows = experiments.run(wildcards.experiment, wildcards.method, task, seeds, job.finished_elsewhere())
    with atomic_write(job.output.rows) as temporary:
        pd.DataFrame(rows, columns=experiments.COLUMNS).to_csv(temporary, index=False)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
