"""Build one data set."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.data import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
