"""Score every prior of one kernel size on the same held-out kernels."""

import pandas as pd

from dwp import kernels, scores
from dwp.files import whole
from dwp.priors.base import collection
from workflow.scripts.job import Job


def main(job: Job) -> None:
    params, size = job.params, int(job.wildcards.size)
    priors = collection(job.input.get("priors", []), params["priors"], [size])
    found = scores.score(
        {name: sizes[size] for name, sizes in priors.items()},
        scores.held_out(kernels.load(job.input.kernels, "test"), params["kernels"]),
        params["samples"],
    )
    with whole(job.output.scores) as temporary:
        pd.DataFrame(found, columns=scores.COLUMNS).to_csv(temporary, index=False)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
