"""Fit one prior to the kernels of one size, unless it was fitted under another name."""

import pandas as pd

from dwp.files import atomic_write, copy
from dwp.kernels import store
from dwp.pipeline.job import Job
from dwp.priors import base as priors


def main(job: Job) -> None:
    """Write the file of a prior and its training history."""
    if there := job.same_prior_elsewhere():
        copy(there["safetensors"], job.output.prior)
        copy(there["csv"], job.output.history)
        return
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
