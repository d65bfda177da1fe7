"""`dwp challenge`: an artifact is made again from its manifest and held against what is there."""

import contextlib
import json
import shutil
from pathlib import Path

import faults
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from dwp.files import sha256
from dwp.pipeline.config.files import read_config
from dwp.pipeline.manifest import read_manifest, write_manifest
from dwp.pipeline.plan import Plan
from dwp.results.challenge import difference
from dwp.results.cli import main

CONFIGS = [ROOT / "config" / "smoke.yaml", ROOT / "tests" / "faults.yaml"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with everything up to the scores, after a few steps of training."""
    folder = tmp_path_factory.mktemp("challenge")
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        for manifest, record in faults.planned(Plan(read_config(CONFIGS))):
            if record["stage"] in ("data", "source", "kernels", "priors", "scores"):
                assert faults.run(manifest, record) == 0
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    shutil.copytree(made / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return Path("results")


def challenge(capsys, path: Path) -> tuple[int, dict]:
    status = main(["challenge", str(path.parent), "--json"])
    files = json.loads(capsys.readouterr().out)["files"]
    return status, {Path(row["file"]).name: row for row in files}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("data/*/digits.safetensors", 1),
        ("source/*/nets-000-003.csv", 4),  # two shards; not their seconds
        ("kernels/*/kernels-5x5.h5", 1),
        ("priors/*/vae-5x5.csv", 2),
        ("scores/*/scores-5x5.csv", 2),
    ],
)
def test_here_everything_is_equal_to_the_bit(run, capsys, pattern, count):
    (path,) = run.glob(pattern)
    before = {file: sha256(file) for file in run.rglob("*") if file.is_file()}
    status, rows = challenge(capsys, path)
    assert (status, len(rows)) == (0, count)
    assert {row["verdict"] for row in rows.values()} == {"equal"}
    assert {file: sha256(file) for file in run.rglob("*") if file.is_file()} == before


def put(file: Path) -> None:
    """Record a changed file in its manifest, as if another machine had made it so."""
    manifest = file.with_name(f"{file.stem}.manifest.json")
    old = read_manifest(manifest)
    facts = {key: old[key] for key in ("read", "job")}
    spec = {key: old[key] for key in ("stage", "version", "params", "inputs", "code")}
    write_manifest(manifest, spec, [manifest.parent / name for name in old["files"]], **facts)


@pytest.mark.parametrize(("by", "verdict"), [(1e-5, "within tolerance"), (0.5, "different")])
def test_numbers_of_another_machine_are_within_the_tolerance_or_not(run, capsys, by, verdict):
    (path,) = run.glob("priors/*/vae-5x5.safetensors")
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    name = max(arrays, key=lambda name: np.abs(arrays[name]).max())
    largest = np.unravel_index(np.abs(arrays[name]).argmax(), arrays[name].shape)
    arrays[name][largest] *= 1 + by
    save_file(arrays, path, metadata)
    put(path)
    status, rows = challenge(capsys, path)
    assert rows["vae-5x5.csv"]["verdict"] == "equal"
    assert rows["vae-5x5.safetensors"]["verdict"] == verdict
    assert rows["vae-5x5.safetensors"]["difference"] == pytest.approx(by / (1 + by), rel=1e-2)
    assert status == (verdict == "different")
    assert main(["challenge", "priors/" + path.parent.name]) == status
    assert f"{verdict} by " in capsys.readouterr().out


def test_what_cannot_be_made_again_is_one_line(run, capsys):
    (scores,) = run.glob("scores/*/scores-5x5.csv")
    (prior,) = run.glob("priors/*/vae-5x5.safetensors")
    manifest = scores.with_name("scores-5x5.manifest.json")
    text = manifest.read_text()

    def refusal() -> str:
        assert main(["challenge", str(scores.parent)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    content = prior.read_bytes()
    prior.write_bytes(content + b" ")
    assert "is not as it was written" in refusal()
    put(prior)
    assert "is not the one that its job has read" in refusal()
    prior.unlink()
    assert "which its job reads; run the workflow" in refusal()
    prior.write_bytes(content)
    put(prior)
    job = json.loads(text)["job"]
    for output, reason in {
        "../../../outside.csv": "is damaged",
        "/tmp/outside.csv": "is damaged",
        "other.csv": "that it does not list",
    }.items():
        changed = {**json.loads(text), "job": {**job, "output": {**job["output"], "scores": output}}}
        manifest.write_text(json.dumps(changed))
        assert reason in refusal()
    manifest.write_text(json.dumps({**json.loads(text), "job": {**job, "wildcards": {}}}))
    assert "could not be made again: AttributeError" in refusal()
    manifest.write_text(json.dumps({key: value for key, value in json.loads(text).items() if key != "job"}))
    assert "by an earlier release" in refusal()
    manifest.write_text("{")
    assert "is damaged" in refusal()


def test_the_difference_of_files(tmp_path):
    def table(name: str, **columns: list) -> Path:
        pd.DataFrame(columns).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    one = table("a.csv", metric=["nll", "nll", "kl"], value=[1.0, 2.0, 1e6], seed=[0, 1, 0])
    # Relative to the largest of the same metric.
    other = table("b.csv", metric=["nll", "nll", "kl"], value=[1.0, 2.1, 1e6 + 1], seed=[0, 1, 0])
    assert difference(one, other) == pytest.approx(0.05)
    assert difference(one, one) == 0
    for changed in (
        table("c.csv", metric=["nll", "nll", "kl"], value=[1.0, 2.0, 1e6], seed=[0, 2, 0]),
        table("c.csv", metric=["nll", "nll", "ece"], value=[1.0, 2.0, 1e6], seed=[0, 1, 0]),
        table("c.csv", metric=["nll", "nll"], value=[1.0, 2.0], seed=[0, 1]),
        table("c.csv", metric=["nll", "nll", "kl"], value=[1.0, float("nan"), 1e6], seed=[0, 1, 0]),
    ):
        assert difference(one, changed) == float("inf")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    assert difference(tmp_path / "a.png", tmp_path / "b.png") == float("inf")
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    assert difference(tmp_path / "a.safetensors", tmp_path / "a.safetensors") == float("inf")
