"""Jobs run again from what their manifests record, and their results held against the recorded ones."""

import importlib
import math
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.files import sha256
from dwp.pipeline import paths
from dwp.pipeline.job import Job
from dwp.pipeline.manifest import checked_sha256
from dwp.pipeline.paths import ROOT
from dwp.results.artifact_store import FIRST, LAST, Version

STAGES = "dwp.pipeline.stages"
TIMES = ".seconds.tsv"
# The largest difference, see `difference`, that two machines may make. Not in the modules of the stages,
# whose code is part of what makes a result.
TOLERANCES = {
    "data": 0.0,  # everything is made from it
    "source": 1e-2,  # rounding grows in training
    "kernels": 1e-6,  # norms are sums of few numbers
    "priors": 1e-2,
    "scores": 1e-4,  # nothing is trained
    "tuning": 1e-2,
    "report": 1e-2,
}
EXPERIMENT_TOLERANCE = 1e-2


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
    """Return the module whose `main` runs the jobs of a stage, as in `Artifact.stage`.

    Raises:
        InputError: there is no such stage.
    """
    if stage in experiments.known():
        name = "experiment"
    elif stage in (*FIRST, *LAST):
        name = {"priors": "prior"}.get(stage, stage)
    else:
        raise InputError(f"there is no stage {stage!r}, so nothing makes it again")
    return importlib.import_module(f"{STAGES}.{name}")


def run_again(
    manifest: Mapping[str, Any], folder: Path, *, threads: int | None = None, **config: object
) -> None:
    """Run a job again, as a process of its own would; its inputs are those in the working directory.

    Args:
        manifest: content of its manifest.
        folder: where the outputs go; a folder `results/<stage>/<version>`, under any other.
        threads: number of threads (default: as recorded).
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
    spec = {key: manifest[key] for key in ("stage", "version", "params", "inputs", "code")}
    settings = {"device": "cpu", "data_root": None, "checkpoint_seconds": 60}
    snakemake = SimpleNamespace(
        params=SimpleNamespace(spec=spec),
        input=Files(job["input"]),
        output=Files(named, others),
        wildcards=_Wildcards(**job["wildcards"]),
        config={**settings, "precision": manifest.get("precision", "auto"), **config},
        log=[str(log)],
        threads=threads or job["threads"],
        scriptdir=str(ROOT / "workflow" / "scripts"),
    )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with Job(snakemake) as made:
            stage_module(manifest["stage"]).main(made)
    finally:
        signal.signal(signal.SIGTERM, handler)  # a job has its own until its process ends


class _Wildcards(SimpleNamespace):
    def items(self) -> list[tuple[str, str]]:
        return list(vars(self).items())


def challenge(version: Version, **settings: Any) -> list[dict[str, Any]]:
    """Make the results of a version again in a temporary folder, and hold them against what is there.

    Args:
        version: the version; all its finished jobs run again, with the present code and libraries.
        settings: `threads` and `config` of `run_again`.

    Returns:
        a list of {file, difference, tolerance}: the largest difference of two numbers, as in `difference`,
        0 if the files are equal to the bit; and what the stage states as its tolerance. Files with the
        seconds that something took are left out.

    Raises:
        InputError: there is no finished job, an input is missing or not the one that was read, or a job
            failed, whose reason is then printed.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="dwp-challenge-") as name:
        for manifest, found_there in version.manifests.items():
            folder = Path(name, version.folder)
            content = _checked(manifest, found_there)
            try:
                run_again(content, folder, **settings)
            except SystemExit:
                raise InputError(f"{version.label} could not be made again, see above") from None
            except Exception as error:  # whatever a manifest from elsewhere leads to
                raise InputError(f"{version.label} could not be made again: {error!r}") from error
            for file, digest in content["files"].items():
                if file.endswith(TIMES):
                    continue
                old, new = version.folder / file, folder / file
                equal = sha256(new) == digest
                found.append(
                    {
                        "file": str(old),
                        "difference": 0.0 if equal else difference(old, new),
                        "tolerance": TOLERANCES.get(version.stage, EXPERIMENT_TOLERANCE),
                    }
                )
    if not found:
        raise InputError(f"{version.label} has no finished job; nothing says what made it")
    return found


def _checked(manifest: Path, content: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if content is None:
        raise InputError(f"{manifest} is damaged; delete it and run the workflow")
    stage_module(content["stage"])
    if not {"job", "read"} <= content.keys():
        raise InputError(
            f"{manifest} was written by an earlier release, which did not record its job's files"
        )
    if not {*content["job"]["output"].values()} <= {*content["files"], manifest.name}:
        raise InputError(f"{manifest} is no manifest: its job makes files that it does not list")
    for file, digest in content["read"].items():
        if not Path(file).is_file():
            raise InputError(f"{manifest}: there is no {file}, which its job reads; run the workflow")
        if checked_sha256(file) != digest:
            raise InputError(f"{manifest}: {file} is not the one that its job has read; run the workflow")
    return content


def difference(a: Path, b: Path) -> float:
    """Return the largest difference of two numbers at the same place of two files.

    It is relative to the largest magnitude in the same array, or column of a table and `metric`. Infinity
    means that anything else differs: names, shapes, texts, pictures, or where there are NaNs.
    """
    try:
        arrays = [_arrays(file) for file in (a, b)]
    except (OSError, ValueError, SafetensorError):
        return math.inf
    if arrays[0].keys() != arrays[1].keys():
        return math.inf
    return max((_largest(arrays[0][name], arrays[1][name]) for name in arrays[0]), default=math.inf)


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if not np.issubdtype(a.dtype, np.floating):
        return 0.0 if np.array_equal(a, b) else math.inf
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return math.inf
    a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
    largest = np.abs(a - b).max(initial=0.0)
    return float(largest / np.abs(a).max(initial=0.0)) if largest else 0.0


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; none for a file without numbers."""
    if file.suffix == ".safetensors":
        return {name: np.asarray(array) for name, array in load_file(file).items()}
    if file.suffix == ".h5":
        found = {}
        with h5py.File(file) as opened:
            opened.visititems(
                lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        return found
    if file.suffix in (".csv", ".tsv"):
        table = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",", float_precision="round_trip")
        groups = table.groupby("metric") if "metric" in table else [("", table)]
        return {
            f"{group} {column}": values.to_numpy() if values.dtype.kind in "fiub" else values.to_numpy(str)
            for group, rows in groups
            for column, values in rows.items()
        }
    return {}
