"""Fit one prior to the kernels of one size."""

import pandas as pd

from dwp.files import atomic_write
from dwp.kernels import store
from dwp.pipeline.job import Job
from dwp.priors import base as priors


def main(job: Job) -> None:
    """Write the file of a prior and its training history."""
    settings = dict(job.params)
    prior, history = priors.find(settings.pop("kind")).fit(
        store.load(job.input.kernels, "train").to(job.device),
        store.load(job.input.kernels, "test").to(job.device),
        settings,
        seed=0,
        checkpoint=job.checkpoint(),
        label=f"{job.wildcards.name} {job.wildcards.size}x{job.wildcards.size}",
    )
    priors.save_prior(prior, job.output.prior)
    with atomic_write(job.output.history) as temporary:
        pd.DataFrame(history, columns=["step", "metric", "value"]).to_csv(temporary, index=False)
