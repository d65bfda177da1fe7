"""Train a shard of source networks."""

from dwp.data.dataset import load
from dwp.experiments import source_nets
from dwp.files import save_tensors
from dwp.pipeline.job import Job
from dwp.pipeline.shards import numbers


def main(job: Job) -> None:
    dataset = load(job.input.dataset)
    nets, rows = source_nets.train_shard(
        numbers(job.wildcards.shard),
        dataset,
        job.params,
        job.device,
        job.checkpoint(),
        job.finished_elsewhere(),
    )
    save_tensors(nets, job.output.nets)
    source_nets.save_tables(rows, job.output.table, job.output.seconds)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
