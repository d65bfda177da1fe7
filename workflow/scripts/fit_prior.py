"""Fit one prior to the kernels of one size."""

import pandas as pd

from dwp import kernels, priors
from dwp.files import whole
from workflow.scripts.job import Job


def main(job: Job) -> None:
    settings = dict(job.params)
    prior, history = priors.find(settings.pop("kind")).fit(
        kernels.load(job.input.kernels, "train").to(job.device),
        kernels.load(job.input.kernels, "test").to(job.device),
        settings,
        seed=0,
        checkpoint=job.checkpoint(),
        label=f"{job.wildcards.name} {job.wildcards.size}x{job.wildcards.size}",
    )
    priors.save_prior(prior, job.output.prior)
    with whole(job.output.history) as temporary:
        pd.DataFrame(history, columns=["step", "metric", "value"]).to_csv(temporary, index=False)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
