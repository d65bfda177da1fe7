"""Make the tables and figures of the report."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.report import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
