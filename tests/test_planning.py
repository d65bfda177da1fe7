"""Planning: imports, and the cache of file checksums."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from configurations import BASE, merged, plan
from conftest import ROOT
from forks import forked_snakemake

from dwp.pipeline import local_data, paths, provenance
from dwp.pipeline.cache import cached

HEAVY = ("torch", "pandas", "matplotlib", "h5py", "scipy")
PLAN = """
import sys
from pathlib import Path
from dwp.pipeline import paths
from dwp.pipeline.config.model import read
from dwp.pipeline.config.files import read_config, with_types
from dwp.pipeline.environment import MEMORY
from dwp.pipeline.latest_links import link_latest
from dwp.pipeline.plan import Plan
from dwp.report.catalogue import check_captions
import dwp.results.cli
plan = Plan(read_config([Path(sys.argv[1])]))
plan.files()
for version in plan.artifacts:
    plan.spec(version)
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("overlay", ["smoke", "everything"])
def test_a_plan_is_made_without_what_computes(tmp_path, overlay):
    done = python("-c", PLAN, str(ROOT / "config" / f"{overlay}.yaml"), *HEAVY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_dry_run_imports_nothing_that_computes(tmp_path):
    words = ("-n", "-s", str(ROOT / "Snakefile"), "--cores", "1")
    done = python("-X", "importtime", "-m", "snakemake", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "dwp.pipeline.plan" in imported
    # Pandas is imported by a plugin of Snakemake's for Slurm, where that is installed.
    assert imported.isdisjoint({*HEAVY} - {"pandas"})
    assert not (tmp_path / "results").exists()


# Values on the command line


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        (["report={dpi: 200}", "data_root=null", "scores={samples: [1, 5]}"], None),
        (["experiments={few_shot: null}"], None),
        (
            ["report={dpi: 20}"],
            "config: report.dpi: 20 is not allowed; expected a whole number from 50 to 600",
        ),
        (["report={dpi: wide}"], "config: report.dpi: 'wide' is not allowed; expected a whole number"),
        (["source={nets: 2.5}"], "config: source.nets: 2.5 is not allowed"),
        (["threads=no"], "config: threads: False is not allowed; expected a whole number from 1"),
    ],
)
def test_values_of_the_command_line_have_the_types_of_yaml(tmp_path, values, refusal):
    done = forked_snakemake(tmp_path, "--dry-run", "--config", *values, config=None)
    output = done.stdout
    assert (done.returncode == 0) == (refusal is None), output
    if refusal:
        assert refusal in output
        assert "Traceback" not in output
    else:
        assert ("results/few_shot/" in output) == ("few_shot" not in values[0])


# The cache


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    return tmp_path


def test_a_checksum_is_computed_once_until_the_file_changes(run_folder, monkeypatch):
    file = run_folder / "kernels.npy"
    file.write_bytes(b"one")
    first = local_data.checksum(str(file))
    monkeypatch.setattr(local_data, "sha256", lambda path: "computed")
    assert local_data.checksum(str(file)) == first
    file.write_bytes(b"longer")
    assert local_data.checksum(str(file)) == "computed"
    other = run_folder / "other.npy"
    other.write_bytes(b"one")
    assert local_data.checksum(str(other)) == "computed"


def test_a_change_of_time_alone_is_looked_into(run_folder, monkeypatch):
    file = run_folder / "kernels.npy"
    file.write_bytes(b"one")
    local_data.checksum(str(file))
    os.utime(file, ns=(1, 1))
    monkeypatch.setattr(local_data, "sha256", lambda path: "computed")
    assert local_data.checksum(str(file)) == "computed"


def test_a_data_set_is_read_once_until_a_file_of_its_folder_changes(run_folder, monkeypatch):
    folder = run_folder / "data" / "mine"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", np.zeros((4, 1, 9, 9), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(4) % 2)
    calls = []
    identity = local_data.data.identity
    monkeypatch.setattr(local_data.data, "identity", lambda *a, **b: calls.append(a) or identity(*a, **b))

    def find():
        return local_data.dataset("mine", "data", None)

    first = find()
    assert find() == first
    assert first["train_size"] == 4
    assert len(calls) == 1
    np.save(folder / "train_images.npy", np.ones((4, 1, 9, 9), np.uint8))
    assert find()["identity"]["files"] != first["identity"]["files"]
    (folder / "notes.txt").write_text("new")
    find()
    assert len(calls) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"key": 5}', b'{"key": {"files": 3}}', b"\xff\xfe"])
def test_a_damaged_memory_is_ignored_and_replaced(run_folder, damage):
    paths.CACHE.write_bytes(damage)
    assert cached("key", lambda: ("found", [])) == "found"
    assert cached("key", lambda: ("other", [])) == "found"
    assert json.loads(paths.CACHE.read_text())["key"]["found"] == "found"


def test_entries_of_another_run_stay(run_folder):
    cached("one", lambda: (1, []))

    def find():
        cached("other", lambda: (2, []))
        return 3, []

    cached("third", find)
    assert [cached(key, lambda: (0, [])) for key in ("one", "other", "third")] == [1, 2, 3]


def test_other_versions_of_libraries_count(run_folder):
    assert cached("key", lambda: (1, []), version=["3.9"]) == 1
    assert cached("key", lambda: (2, []), version=["3.10"]) == 2


def test_without_results_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [cached("key", lambda n=n: (n, [])) for n in (1, 2)] == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_code_digests_are_cached_until_the_code_changes(run_folder, monkeypatch):
    package = run_folder / "dwp"
    package.mkdir()
    for name, text in (("one", "from dwp import two\n"), ("two", "x = 1\n"), ("__init__", "")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(provenance, "ROOT", run_folder)
    first = provenance.code_digest(["dwp.one"])
    found = []
    find = provenance._find_digest
    monkeypatch.setattr(provenance, "_find_digest", lambda roots: found.append(roots) or find(roots))
    assert provenance.code_digest(["dwp.one"]) == first
    assert not found
    (package / "two.py").write_text("x = 1  # a comment\n")
    assert provenance.code_digest(["dwp.one"]) == first
    (package / "two.py").write_text("x = 22\n")
    assert provenance.code_digest(["dwp.one"]) != first
    assert len(found) == 2


def test_what_is_stated_and_is_the_default_is_the_same_version():
    from dwp.pipeline.config.model import read
    from dwp.pipeline.plan import Plan

    few_shot = {"methods": {"l2_xavier": {"members": 1, "laplace": False, "init": {"draw": "sample"}}}}
    stated = merged(
        BASE,
        {
            "source": {"network": {"dropout": 0}, "schedule": {"precision": "auto"}},
            "priors": {"vae": {"code_prior": "standard_normal", "pseudo_inputs": 50}},
            "experiments": {"few_shot": few_shot, "convergence": {"width": [1.0]}},
        },
    )
    one, other = Plan(read(BASE)), Plan(read(stated))
    assert list(one.artifacts) == list(other.artifacts)
    assert one.files() == other.files()


def test_a_schedule_of_its_own_precision_keeps_it():
    made = plan({"precision": "float32", "source": {"schedule": {"precision": "bfloat16"}}})
    assert made.source.params["schedule"]["precision"] == "bfloat16"
    for artifact in (made.methods["few_shot", "dwp"].params["settings"], made.priors["vae"][7].params):
        assert artifact["schedule"]["precision"] == "float32"


def test_counts_are_no_part_of_parameters():
    made = plan()
    assert set(made.source.params) == {"network", "l2", "schedule"}
    for (experiment, _), artifact in made.methods.items():
        assert not {"seeds", "shard", "methods"} & set(artifact.params["settings"])
        assert ("width" in artifact.params["settings"]) is False, experiment
    assert "scale" in made.methods["kl_profile", "dwp"].params["settings"]
    assert "examples" not in made.methods["few_shot", "dwp"].params["settings"]
