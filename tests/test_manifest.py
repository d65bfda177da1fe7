"""Manifests: their contents, and files held against them."""

import hashlib
import json
import sys

import pytest

from dwp.errors import InputError
from dwp.files import sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import checked_sha256, write_manifest
from dwp.pipeline.provenance import Artifact


def test_a_manifest_says_what_made_the_files(tmp_path):
    contents = {"nets.csv": b"net,accuracy\n", "nets.safetensors": bytes(range(256))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    spec = Artifact("source", {"l2": 0.01}, {"dataset": Artifact("data", {})}).spec
    write_manifest(
        tmp_path / "m.json", spec, [tmp_path / name for name in contents], device="cpu", seconds=1.5
    )
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert {key: manifest[key] for key in spec} == spec
    assert (manifest["device"], manifest["seconds"]) == ("cpu", 1.5)
    assert manifest["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    import torch

    assert manifest["libraries"]["torch"] == torch.__version__
    assert manifest["python"] == sys.version.split()[0]
    assert set(manifest["git"]) == {"commit", "clean"}
    assert manifest["finished"].endswith("+00:00")


def test_a_manifest_does_not_need_git(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    write_manifest(tmp_path / "m.json", {}, [])
    assert json.loads((tmp_path / "m.json").read_text())["git"] == {"commit": None, "clean": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    write_manifest(tmp_path / "m.json", {}, [])
    assert json.loads((tmp_path / "m.json").read_text())["git"] == {"commit": None, "clean": None}


def test_a_file_is_held_against_its_manifest(tmp_path):
    file = tmp_path / "nets-000-009.csv"
    file.write_text("net,accuracy\n")
    assert checked_sha256(file) == sha256(file)
    write_manifest(tmp_path / "nets-000-009.manifest.json", Artifact("source", {}).spec, [file])
    assert checked_sha256(file) == sha256(file)
    file.write_text("net,accuracY\n")
    with pytest.raises(InputError, match=r"nets-000-009\.csv is not as it was written .* delete it"):
        checked_sha256(file)
    # One that cannot be read says nothing about the file.
    (tmp_path / "nets-000-009.manifest.json").write_text("{")
    assert checked_sha256(file) == sha256(file)
