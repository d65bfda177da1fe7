"""Choose the settings of one method from the rows of its trials."""

import json
import logging

import numpy as np
import pandas as pd

from dwp.errors import InputError
from dwp.experiments import _tuning as tuning
from dwp.files import atomic_write
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.report import aggregation

logger = logging.getLogger("dwp")


def main(job: Job) -> None:
    """Write the table of all trials of a method, and the settings of the best."""
    params, wildcards = job.params, job.wildcards
    files: dict[str, list[str]] = {}
    for file in job.input.trials:
        files.setdefault(paths.label(file), []).append(file)
    trials = zip(params["trials"], map(paths.short, job.spec["inputs"].values()), strict=True)
    rows = [
        {
            "experiment": wildcards.experiment,
            "method": wildcards.method,
            "settings": json.dumps(chosen),
            "version": label.partition("/")[2],
            "combinations": params["combinations"],
            "metric": params["metric"],
            **_statistics(aggregation.read(files[label]), params["metric"]),
        }
        for chosen, label in trials
    ]
    try:
        best = tuning.choose([row["mean"] for row in rows], params["better"])
    except InputError as error:
        where = f"tuning of {wildcards.experiment}, method {wildcards.method}, by {params['metric']}"
        raise InputError(f"{where}: {error}; change the space") from None
    table = pd.DataFrame(rows).assign(chosen=[number == best for number in range(len(rows))])
    table = table[list(aggregation.TRIALS)]
    logger.info(
        "%d trials of %d combinations; chosen by %s: %s",
        len(rows),
        params["combinations"],
        params["metric"],
        tuning.describe(params["trials"][best]),
    )
    with atomic_write(job.output.table) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_write(job.output.chosen) as temporary:
        temporary.write_text(json.dumps(params["trials"][best], indent=2) + "\n", encoding="utf-8")


def _statistics(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return mean, standard_error and n of a metric at the end of training, over seeds and settings."""
    values = aggregation.last_steps(rows[rows["metric"] == metric])["value"]
    if not len(values):
        raise InputError(f"tuning: trials have no metric {metric}; choose by another")
    return {
        "mean": values.mean(skipna=False),
        "standard_error": values.std(skipna=False) / np.sqrt(len(values)),
        "n": len(values),
    }
