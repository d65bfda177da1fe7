"""Score every prior of one kernel size on the same held-out kernels."""

import pandas as pd

from dwp.files import atomic_write
from dwp.kernels import store
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.priors import scores
from dwp.priors.base import collection


def main(job: Job) -> None:
    """Write the table of scores of one kernel size."""
    params, size = job.params, int(job.wildcards.size)
    fitted = paths.priors_by_name(job.input.get("priors", []))
    priors = collection(fitted, params["priors"], [size])
    found = scores.score(
        {name: sizes[size] for name, sizes in priors.items()},
        scores.held_out(store.load(job.input.kernels, "test"), params["kernels"]),
        params["samples"],
    )
    with atomic_write(job.output.scores) as temporary:
        pd.DataFrame(found, columns=scores.COLUMNS).to_csv(temporary, index=False)
