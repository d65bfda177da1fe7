"""Build one data set: embedded, downloaded, or from the user's folder."""

from dwp.data import build, save
from dwp.pipeline.job import Job


def main(job: Job) -> None:
    dataset = build(
        job.params["name"],
        data_root=job.config["data_root"],
        downloads="results/downloads",
        options=job.params["options"],
    )
    save(dataset, job.output.dataset)


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
