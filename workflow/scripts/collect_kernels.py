"""Collect, prune and store the kernels of one size."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.kernels import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
