"""Make the tables and figures."""

from pathlib import Path

from dwp.pipeline.job import Job
from dwp.report import build


def main(job: Job) -> None:
    params = job.params
    build.make(
        Path(job.output.manifest).parent,
        experiments=_grouped(job.input.cells, lambda file: file.parts[-3]),
        stores={_size(file): file for file in job.input.stores},
        priors=_by_name_and_size(job.input.priors),
        histories=_by_name_and_size(job.input.histories),
        nets=job.input.get("nets", []),
        scored=job.input.get("scores", []),
        source=params["source"],
        target=params["target"],
        style=params["style"],
    )


def _grouped(files: list[str], key: object) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(key(Path(file)), []).append(file)
    return groups


def _size(file: str) -> int:
    return int(Path(file).stem.rpartition("x")[2])


def _by_name_and_size(files: list[str]) -> dict[str, dict[int, str]]:
    groups = _grouped(files, lambda file: file.stem.rpartition("-")[0])
    return {name: {_size(file): file for file in group} for name, group in groups.items()}


if __name__ == "__main__":
    with Job(snakemake) as job:  # noqa: F821
        main(job)
