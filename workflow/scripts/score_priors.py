"""Score all priors of one kernel size."""

from dwp.pipeline.job import run
from dwp.pipeline.stages.scores import main

if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
