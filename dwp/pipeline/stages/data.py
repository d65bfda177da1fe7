"""Build one data set: embedded, downloaded, or from the user's folder."""

from dwp.data import build, save, text
from dwp.pipeline import paths
from dwp.pipeline.job import Job


def main(job: Job) -> None:
    """Write the file of a data set."""
    dataset = build(
        job.params["name"],
        data_root=job.config["data_root"],
        downloads=paths.DOWNLOADS,
        options=job.params["options"],
    )
    if isinstance(dataset, text.Text):
        text.save(dataset, job.output.dataset)
    else:
        save(dataset, job.output.dataset)
