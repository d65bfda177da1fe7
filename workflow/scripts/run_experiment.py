"""Run one method of an experiment at one setting with a shard of seeds."""

import pandas as pd

from dwp import experiments, source
from dwp.data.dataset import load
from dwp.files import whole
from dwp.priors.base import collection
from workflow.scripts.job import Job


def main(job: Job) -> None:
    params, wildcards, files = job.params, job.wildcards, job.input
    task = experiments.Task(
        setting=float(wildcards.setting),
        seed=0,
        settings=params["settings"],
        method=params["method"],
        dataset=load(files.dataset),
        priors=collection(files.get("priors", []), params["priors"], params["settings"]["network"]),
        device=job.device,
        outliers=load(files.outliers) if "outliers" in files.keys() else None,  # noqa: SIM118
        pretrained=source.load(files.pretrained) if "pretrained" in files.keys() else (),  # noqa: SIM118
        checkpoint=job.checkpoint(),
    )
    first, last = map(int, wildcards.shard.split("-"))
    rows = experiments.run(wildcards.experiment, wildcards.method, task, range(first, last + 1))
    with whole(job.output.rows) as temporary:
        pd.DataFrame(rows, columns=experiments.COLUMNS).to_csv(temporary, index=False)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
