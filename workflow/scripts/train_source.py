"""Train a shard of source networks."""

import pandas as pd
from safetensors.torch import save_file

from dwp import source
from dwp.data.dataset import load
from dwp.files import whole
from dwp.shards import numbers
from workflow.scripts.job import Job


def main(job: Job) -> None:
    dataset = load(job.input.dataset)
    seeds = numbers(job.wildcards.shard)
    nets, rows = source.train_shard(
        seeds, dataset, job.params, job.device, job.checkpoint(), job.finished_elsewhere()
    )
    with whole(job.output.nets) as temporary:
        save_file(nets, temporary)
    with whole(job.output.table) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
