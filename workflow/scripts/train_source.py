"""Train a shard of source networks."""

from dwp import source
from dwp.data.dataset import load
from dwp.files import save_tensors
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
    save_tensors(nets, job.output.nets)
    source.save_tables(rows, job.output.table, job.output.seconds)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
