"""Collect, prune and store the kernels of one size."""

import logging

from dwp import kernels
from workflow.scripts.job import Job


def main(job: Job) -> None:
    params = job.params
    counts = kernels.collect(
        job.input.files,
        params["size"],
        job.output.store,
        threshold=params["threshold"],
        test_fraction=params["test_fraction"],
    )
    logging.getLogger("dwp").info("%s", counts)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
