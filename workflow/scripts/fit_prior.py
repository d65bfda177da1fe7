"""Fit one prior."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.prior import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
