"""Train a shard of source networks."""

from safetensors.torch import save_file

from dwp import source
from dwp.data.dataset import load
from dwp.files import whole
from dwp.shards import numbers
from workflow.scripts.job import Job


def main(job: Job) -> None:
    dataset = load(job.input.dataset)
    nets, rows = source.train_shard(
        numbers(job.wildcards.shard),
        dataset,
        job.params,
        job.device,
        job.checkpoint(),
        job.finished_elsewhere(),
    )
    with whole(job.output.nets) as temporary:
        save_file(nets, temporary)
    source.save_tables(rows, job.output.table, job.output.seconds)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
