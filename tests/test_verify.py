"""The console script's `verify`: missing, damaged and corrupt files, and files in no manifest."""

import json
from pathlib import Path

import pytest
from version_samples import (
    OTHER_PRIOR,
    PRIOR,
    REPORT,
    SOURCE,
    backdate,
    label,
    put_results,
)

from dwp.results.cli import main


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Work in a folder with two versions of nets and priors, and a report of the first."""
    monkeypatch.chdir(tmp_path)
    return put_results()


def test_verify_names_what_is_missing_damaged_or_in_no_manifest(results, capsys):
    assert main(["verify"]) == 0
    assert "14 files as written, 0 missing or damaged" in capsys.readouterr().out
    prior = results / "priors" / PRIOR.version
    (prior / "vae-7x7.csv").unlink()
    (prior / "vae-7x7.safetensors").write_text("other")
    (prior / ".vae-7x7-x1.csv").write_text("half a fi")
    (results / "report" / REPORT.version / "figures" / "norms.png").write_text("other")
    (results / "source" / SOURCE.version / "nets-000-009.manifest.json").write_text("{")
    assert main(["verify", "--json"]) == 1
    faults = {(Path(f["file"]).name, f["fault"]) for f in json.loads(capsys.readouterr().out)["faults"]}
    assert {
        ("vae-7x7.csv", "missing"),
        ("vae-7x7.safetensors", "damaged"),
        ("norms.png", "damaged"),
        ("nets-000-009.manifest.json", "damaged"),
        (".vae-7x7-x1.csv", "unfinished"),
    } <= faults
    assert main(["verify", OTHER_PRIOR.version]) == 0


CORRUPT = {
    "no JSON": "{",
    "a list": "[]",
    "brackets without end": "[" * 100_000,
    "no time": {"finished": "yesterday"},
    "a time without its zone": {"finished": "2026-11-20T12:00:00"},
    "a number for a time": {"finished": 7},
    "params that are none": {"params": []},
    "inputs that are none": {"inputs": ["source/0123abcd"]},
    "an input without its whole digest": {"inputs": {"source": "source/0123abcd"}},
    "an input that is none": {"inputs": {"source": 7}},
    "files that are none": {"files": ["vae-7x7.csv"]},
    "a checksum that is none": {"files": {"vae-7x7.csv": "0123"}},
    "a checksum that is a number": {"files": {"vae-7x7.csv": 7}},
    "a file outside": {"files": {"../vae-7x7.csv": "0" * 64}},
    "a file at the root": {"files": {"/etc/hostname": "0" * 64}},
    "no name": {"files": {"": "0" * 64}},
    "a name that no system takes": {"files": {"\ud800\0": "0" * 64}},
    "another stage": {"stage": "source"},
    "other params than its version's": {"params": {"kind": "flow"}},
    "itself as its input": {"inputs": {"source": label(PRIOR)}},
    "no code": {"code": None},
    "inputs that were read without their checksums": {"read": ["kernels-7x7.h5"]},
    "a job that is none": {"job": "vae"},
    "a job that writes elsewhere": {
        "job": {"input": {}, "output": {"prior": "../../x"}, "wildcards": {}, "threads": 1}
    },
}


@pytest.mark.parametrize("corrupt", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_manifest_is_one_fault_and_no_traceback(results, capsys, corrupt):
    manifest = results / "priors" / PRIOR.version / "vae-7x7.manifest.json"
    if isinstance(corrupt, dict):
        corrupt = json.dumps(json.loads(manifest.read_text()) | corrupt)
    manifest.write_text(corrupt)

    assert main(["verify"]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"damaged: {manifest.relative_to(results.parent)}",
        "12 files as written, 1 missing or damaged",
    ]
    assert main(["versions"]) == 0
    assert label(PRIOR).split("/")[1] in capsys.readouterr().out
    assert main(["versions", "--json"]) == 0
    assert main(["prune"]) == 0
    capsys.readouterr()
    assert main(["diff", PRIOR.version, OTHER_PRIOR.version]) == 2
    assert "has no readable manifest" in capsys.readouterr().err


def test_files_whose_manifest_is_gone_are_faults(results, capsys):
    prior, shard = results / "priors" / PRIOR.version, results / "source" / SOURCE.version
    (prior / "vae-7x7.manifest.json").unlink()
    (shard / "nets-000-009.manifest.json").unlink()
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    for file in (prior / "vae-7x7.csv", prior / "vae-7x7.safetensors", shard / "nets-000-009.csv"):
        assert f"no manifest: {file.relative_to(results.parent)}\n" in out
    assert "10 files as written, 0 missing or damaged, 4 without a manifest" in out
    assert main(["verify", label(PRIOR)]) == 1
    assert main(["verify", label(OTHER_PRIOR)]) == 0

    capsys.readouterr()
    assert main(["versions", "--json"]) == 0
    listed = {(v["stage"], v["version"]): v for v in json.loads(capsys.readouterr().out)}
    assert listed["priors", PRIOR.version]["cells"] == 0


def test_what_a_killed_job_left_is_mentioned_and_no_fault(results, capsys):
    prior = results / "priors" / PRIOR.version
    (prior / "checkpoints").mkdir()
    for name in ("vae-5x5.log", "checkpoints/vae-5x5.pt", ".vae-5x5-0123abcd.csv", "vae-5x5.benchmark.tsv"):
        (prior / name).write_text("half")
    assert main(["verify"]) == 0
    out = capsys.readouterr().out
    assert out.count("unfinished: ") == 4
    assert "14 files as written, 0 missing or damaged\n" in out


def test_what_a_job_at_work_has_written_is_no_fault_yet(results, capsys):
    prior = results / "priors" / PRIOR.version
    (prior / "vae-5x5.csv").write_text("whole, but without a manifest yet")
    assert main(["verify"]) == 1
    locks = results.parent / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/priors/0123abcd/vae-5x5.csv\n")
    assert main(["verify"]) == 0
    assert "unfinished: " in capsys.readouterr().out
    # No job takes a day between its files and their manifest.
    backdate(prior, 1.1)
    assert main(["verify"]) == 1
