"""Train a shard of source networks."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.source import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
