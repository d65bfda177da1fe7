"""Score every prior of one kernel size on the same held-out kernels."""

from collections.abc import Iterable, Mapping

import pandas as pd

from dwp.files import atomic_write
from dwp.kernels import store
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.pipeline.manifest import read_manifest
from dwp.priors import scores
from dwp.priors.base import collection

# Training kernels among which the nearest to a sample is searched.
REFERENCES = 20_000


def main(job: Job) -> None:
    """Write the tables of log densities and of samples of one kernel size."""
    params, size = job.params, int(job.wildcards.size)
    fitted = paths.priors_by_role(job.input.get("priors", []), job.spec["inputs"])
    priors = {name: sizes[size] for name, sizes in collection(fitted, params["priors"], [size]).items()}
    test = scores.held_out(store.load(job.input.kernels, "test"), params["kernels"])
    dense = {name: prior for name, prior in priors.items() if prior.settings_class.has_density}
    _write(job.output.scores, scores.score(dense, test, params["samples"]), scores.COLUMNS)
    timed = params["measure_time"]
    sampled = scores.compare_samples(
        {name: prior for name, prior in priors.items() if prior.settings_class.has_samples},
        scores.held_out(store.load(job.input.kernels, "train"), REFERENCES),
        test,
        params["kernels"],
        fit_seconds=_fit_seconds(fitted, size) if timed else {},
        measure_time=timed,
    )
    _write(job.output.samples, sampled, scores.SAMPLES)


def _fit_seconds(fitted: Mapping[str, Mapping[int, str]], size: int) -> dict[str, float]:
    """Return the seconds of the job that fitted each prior, from its manifest."""
    return {
        name: read_manifest(paths.manifest(files[size])).get("seconds", float("nan"))
        for name, files in fitted.items()
    }


def _write(path: str, rows: list[dict], columns: Iterable[str]) -> None:
    with atomic_write(path) as temporary:
        pd.DataFrame(rows, columns=list(columns)).to_csv(temporary, index=False)
