"""A folder of results with a few versions."""

import os
import time
from pathlib import Path

from dwp.pipeline.manifest import write_manifest
from dwp.pipeline.provenance import Artifact
from dwp.results import artifact_store


def put(artifact: Artifact, *files: str, manifest: str | None = None) -> Path:
    """Write a version with some files and their manifest, as a job does; return its folder."""
    folder = Path(artifact.path(""))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{file} of {artifact.version}")
    stem = Path(files[0]).stem
    spec = artifact.spec
    write_manifest(folder / (manifest or f"{stem}.manifest.json"), spec, [folder / file for file in files])
    (folder / f"{'report' if manifest else stem}.log").write_text("done\n")
    return folder


SOURCE = Artifact("source", {"l2": 0.01, "layers": [{"conv": 4}, {"conv": 8}]})
OTHER_SOURCE = Artifact("source", {"l2": 0.02, "layers": [{"conv": 4}, {"conv": 9}]})
PRIOR = Artifact("priors", {"kind": "vae", "schedule": {"steps": 60}}, {"source": SOURCE})
OTHER_PRIOR = Artifact(
    "priors", {"kind": "vae", "schedule": {"steps": 60, "lr": 0.1}}, {"source": OTHER_SOURCE}
)
REPORT = Artifact("report", {"dpi": 150}, {"vae": PRIOR})


def put_results() -> Path:
    """Write two versions of nets and priors, and a report of the first, in this folder; return `results`."""
    for source in (SOURCE, OTHER_SOURCE):
        put(source, "nets-000-009.safetensors", "nets-000-009.csv")
        put(source, "nets-010-019.safetensors", "nets-010-019.csv")
    for prior in (PRIOR, OTHER_PRIOR):
        put(prior, "vae-7x7.safetensors", "vae-7x7.csv")
    put(REPORT, "figures/norms.png", "tables/norms.csv", manifest="manifest.json")
    latest = Path("results").absolute() / "latest" / "priors"
    latest.mkdir(parents=True)
    (latest / "vae-7x7").symlink_to(f"../../priors/{PRIOR.version}")
    return Path("results").absolute()


def labels(found):
    return [version.label for version in found]


def label(artifact):
    return f"{artifact.stage}/{artifact.version}"


def backdate(folder: Path, days: float) -> None:
    then = time.time() - days * artifact_store.DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))
