"""Jobs run again from what their manifests record, and their results held against the recorded ones."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dwp.experiments import base as experiments
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.pipeline.paths import ROOT

STAGES = "dwp.pipeline.stages"


class Files(list):
    """Files of a job, by name and in one list, as Snakemake provides them."""

    def __init__(self, named: Mapping[str, Any], others: list[str] | None = None) -> None:
        self.named = {
            name: Files({}, value) if isinstance(value, list) else value for name, value in named.items()
        }
        flat = [file for value in named.values() for file in (value if isinstance(value, list) else [value])]
        super().__init__([*(others or []), *flat])

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["named"][name]
        except KeyError:
            raise AttributeError(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the file or files of a name."""
        return self.named.get(name, default)

    def keys(self) -> list[str]:
        """Return all names."""
        return list(self.named)

    def items(self) -> list[tuple[str, Any]]:
        """Return all names with their files."""
        return list(self.named.items())


def stage_module(stage: str) -> Any:
    """Return the module whose `main` runs the jobs of a stage, as in `Artifact.stage`."""
    name = "experiment" if stage in experiments.known() else {"priors": "prior"}.get(stage, stage)
    return importlib.import_module(f"{STAGES}.{name}")


def run_again(manifest: Mapping[str, Any], folder: Path, **config: object) -> None:
    """Run a job again, as a process of its own would; its inputs are those in the working directory.

    Args:
        manifest: content of its manifest.
        folder: where the outputs go; a folder `results/<stage>/<version>`, under any other.
        config: settings that do not change a result: `device`, `data_root`, `checkpoint_seconds`.

    Raises:
        SystemExit: the job failed; the reason is printed and in its log.
    """
    job = manifest["job"]
    named = {name: str(folder / file) for name, file in job["output"].items()}
    others = [str(folder / file) for file in manifest["files"] if file not in job["output"].values()]
    for file in (*named.values(), *others):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    log, _ = paths.logs(Path(named["manifest"]))
    settings = {"device": "cpu", "data_root": None, "checkpoint_seconds": 60}
    snakemake = SimpleNamespace(
        params=SimpleNamespace(
            spec={key: manifest[key] for key in ("stage", "version", "params", "inputs", "code")}
        ),
        input=Files(job["input"]),
        output=Files(named, others),
        wildcards=_Wildcards(**job["wildcards"]),
        config={**settings, "precision": manifest.get("precision", "auto"), **config},
        log=[str(log)],
        threads=job["threads"],
        scriptdir=str(ROOT / "workflow" / "scripts"),
    )
    with Job(snakemake) as made:
        stage_module(manifest["stage"]).main(made)


class _Wildcards(SimpleNamespace):
    def items(self) -> list[tuple[str, str]]:
        return list(vars(self).items())
