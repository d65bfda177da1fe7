"""Run one method of an experiment, at one setting or at all of them, with a shard of seeds."""

import pandas as pd

from dwp import experiments, source
from dwp.data.dataset import load
from dwp.files import whole
from dwp.networks import kernel_sizes
from dwp.priors.base import collection
from dwp.shards import numbers
from workflow.scripts.job import Job


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
            files.get("priors", []), params["priors"], kernel_sizes(params["settings"]["network"])
        ),
        device=job.device,
        outliers=load(files.outliers) if "outliers" in files.keys() else None,  # noqa: SIM118
        pretrained=source.load_nets(files.get("pretrained", []), seeds),
        checkpoint=job.checkpoint(),
    )
    rows = experiments.run(wildcards.experiment, wildcards.method, task, seeds, job.finished_elsewhere())
    with whole(job.output.rows) as temporary:
        pd.DataFrame(rows, columns=experiments.COLUMNS).to_csv(temporary, index=False)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
