"""Choose the settings of one method."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.tuning import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
