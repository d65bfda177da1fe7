"""Make the tables and figures of the report."""

from pathlib import Path

from dwp.experiments.methods import PriorUse
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.report import build


def main(job: Job) -> None:
    """Write all tables and figures of a configuration."""
    params = job.params
    cells: dict[str, list[str]] = {}
    for file in job.input.cells:
        cells.setdefault(paths.CELL.fields(file)["experiment"], []).append(file)
    tunings: dict[str, list[str]] = {}
    for file in job.input.get("tunings", []):
        tunings.setdefault(paths.TUNING.fields(file)["experiment"], []).append(file)
    build.make(
        Path(job.output.manifest).parent,
        experiments=cells,
        stores={int(paths.KERNELS.fields(file)["size"]): file for file in job.input.stores},
        priors=paths.priors_by_role(job.input.priors, job.spec["inputs"]),
        histories=paths.priors_by_role(job.input.histories, job.spec["inputs"]),
        nets=job.input.get("nets", []),
        scored=job.input.get("scores", []),
        sampled=job.input.get("samples", []),
        tunings=tunings,
        switches=params["switches"],
        source=params["source"],
        target=params["target"],
        titles=params["titles"],
        learned=params["learned"],
        kinds=dict(params["kinds"]),
        uses={method: PriorUse(*use) for method, use in params["uses"].items()},
        score_roles={int(size): dict(roles) for size, roles in params["roles"]["scores"].items()},
        tuning_roles=params["roles"]["tuning"],
        captions={file.name: file.read_text(encoding="utf-8") for file in paths.CAPTIONS.glob("*.rst")},
        style=params["style"],
    )
