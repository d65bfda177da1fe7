"""Collect, prune and store the kernels of one size."""

import logging

from dwp.kernels import store
from dwp.pipeline.job import Job


def main(job: Job) -> None:
    """Write the kernel store of one size."""
    params = job.params
    counts = store.collect(
        job.input.files,
        params["size"],
        job.output.store,
        threshold=params["threshold"],
        test_fraction=params["test_fraction"],
    )
    logging.getLogger("dwp").info("%s", counts)
