"""Run one method of an experiment with a shard of seeds."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.experiment import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
