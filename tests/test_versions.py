"""The console script: listing, comparing, checking and removing versions."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from dwp import versions
from dwp.cli import main
from dwp.configfiles import read_config
from dwp.errors import InputError
from dwp.plan import Plan
from dwp.provenance import Artifact, write_manifest


def put(artifact: Artifact, *files: str, manifest: str | None = None) -> Path:
    """Make a version with some files and their manifest, as a job does; return its folder."""
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


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Work in a folder with two versions of nets and priors, and a report of the first."""
    monkeypatch.chdir(tmp_path)
    for source in (SOURCE, OTHER_SOURCE):
        put(source, "nets-000-009.safetensors", "nets-000-009.csv")
        put(source, "nets-010-019.safetensors", "nets-010-019.csv")
    for prior in (PRIOR, OTHER_PRIOR):
        put(prior, "vae-7x7.safetensors", "vae-7x7.csv")
    put(REPORT, "figures/norms.png", "tables/norms.csv", manifest="manifest.json")
    latest = tmp_path / "results" / "latest" / "priors"
    latest.mkdir(parents=True)
    (latest / "vae-7x7").symlink_to(f"../../priors/{PRIOR.version}")
    return tmp_path / "results"


def labels(found):
    return [version.label for version in found]


def label(artifact):
    return f"{artifact.stage}/{artifact.version}"


def backdate(folder: Path, days: float) -> None:
    then = time.time() - days * versions.DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


# Reading


def test_versions_say_what_they_are_and_come_in_the_order_of_the_pipeline(results):
    found = versions.read()
    assert [version.stage for version in found] == ["source", "source", "priors", "priors", "report"]
    source = versions.find(found, SOURCE.version)
    assert (source.names, len(source.manifests)) == (["nets"], 2)
    assert source.size == sum(path.stat().st_size for path in source.folder.iterdir())
    assert versions.find(found, PRIOR.version).spec["inputs"] == {"source": label(SOURCE)}
    assert not any(version.unnamed_files for version in found)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("log_uniform_examples-50_seeds-000-004", "log_uniform"),
        ("dwp_width-0.25_seeds-005-005", "dwp"),
        ("dwp_samples_settings-all_seeds-000-009", "dwp_samples"),
        ("nets-000-009", "nets"),
        ("vae-7x7", "vae-7x7"),
    ],
)
def test_a_name_leaves_out_setting_and_shard(results, stem, name):
    put(Artifact("priors", {"stem": stem}), f"{stem}.csv")
    assert name in [name for version in versions.read() for name in version.names]


def test_what_only_looks_like_a_version_is_passed_over(results, tmp_path):
    before = labels(versions.read())
    (results / "diary" / "20261120").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (results / "priors" / "0123abcd").symlink_to(tmp_path / "elsewhere")
    (results / "priors" / "notes").mkdir()
    assert labels(versions.read()) == before


def test_a_version_is_found_by_what_people_call_it(results):
    found = versions.read()
    for name in (
        PRIOR.version,
        label(PRIOR),
        f"results/{label(PRIOR)}/",
        "priors/vae-7x7",
        label(PRIOR)[:-2],
    ):
        assert versions.find(found, name).label == label(PRIOR)
    with pytest.raises(InputError, match=r"not unique: source/.*, source/"):
        versions.find([*found, *found], SOURCE.version)
    for name in ("ffffffff", "", f"source/{PRIOR.version}"):
        with pytest.raises(InputError, match="there is no version"):
            versions.find(found, name)


# Comparing


def test_a_difference_has_dotted_paths_and_goes_on_into_the_inputs(results):
    found = versions.read()
    a, b = versions.find(found, PRIOR.version), versions.find(found, OTHER_PRIOR.version)
    difference = versions.diff(a, b, found)
    assert difference["changes"] == [
        {"path": "inputs.source", "a": label(SOURCE), "b": label(OTHER_SOURCE)},
        {"path": "params.schedule.lr", "b": 0.1},
    ]
    assert difference["inputs"]["source"]["changes"] == [
        {"path": "params.l2", "a": 0.01, "b": 0.02},
        {"path": "params.layers.1.conv", "a": 8, "b": 9},
    ]
    assert versions.diff(a, a, found)["changes"] == []


def test_versions_of_two_stages_are_not_compared(results, capsys):
    assert main(["diff", label(PRIOR), label(SOURCE)]) == 2
    assert capsys.readouterr().err.startswith(
        f"dwp: {label(PRIOR)} and {label(SOURCE)} are of different stages"
    )


def test_a_difference_is_printed(results, capsys):
    assert main(["diff", PRIOR.version, OTHER_PRIOR.version]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["params.schedule.lr", "(absent)", "→", "0.1"] in lines
    assert ["params.l2", "0.01", "→", "0.02"] in lines


# Checking


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
        (".vae-7x7-x1.csv", "unnamed"),
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
    assert out.count("in no manifest: ") == 4
    assert "14 files as written, 0 missing or damaged\n" in out


def test_what_a_job_at_work_has_written_is_no_fault_yet(results, capsys):
    prior = results / "priors" / PRIOR.version
    (prior / "vae-5x5.csv").write_text("whole, but without a manifest yet")
    assert main(["verify"]) == 1
    locks = results.parent / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/priors/0123abcd/vae-5x5.csv\n")
    assert main(["verify"]) == 0
    assert "in no manifest: " in capsys.readouterr().out
    # No job is a day between its files and their manifest.
    backdate(prior, 1.1)
    assert main(["verify"]) == 1


# Removing


def test_what_is_being_written_is_kept_for_a_day(results):
    empty = results / "kernels" / "0123abcd"
    empty.mkdir(parents=True)
    half = results / "priors" / OTHER_PRIOR.version
    (half / "vae-5x5.log").write_text("started\n")
    remove, keep = versions.unwanted(versions.read(), {label(SOURCE)})
    assert sorted(labels(keep)) == sorted(["kernels/0123abcd", label(OTHER_PRIOR)])
    assert label(SOURCE) not in labels(remove)
    for folder in (empty, half):
        backdate(folder, 1.1)
    remove, keep = versions.unwanted(versions.read(), {label(SOURCE)})
    assert keep == []
    assert {"kernels/0123abcd", label(OTHER_PRIOR)} <= set(labels(remove))


def test_prune_shows_first_deletes_with_yes_and_stays_in_results(results, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (results / "downloads").mkdir()
    (results / "downloads" / "mnist.gz").write_text("images")
    (results / "source" / OTHER_SOURCE.version / "link").symlink_to(outside)
    backdate(results / "source" / OTHER_SOURCE.version, 2)

    assert main(["prune"]) == 0
    assert label(PRIOR) in capsys.readouterr().out
    assert len(versions.read()) == 5

    assert main(["prune", "--yes", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["unwanted"]) == set(map(label, (SOURCE, OTHER_SOURCE, PRIOR, OTHER_PRIOR, REPORT)))
    assert all(size > 0 for size in shown["unwanted"].values())
    assert versions.read() == []
    assert not any((results / "latest").rglob("*"))
    assert (outside / "mine.txt").exists()
    assert (results / "downloads" / "mnist.gz").exists()


def test_prune_deletes_nothing_while_a_workflow_runs(results, capsys):
    before = labels(versions.read())
    locks = results.parent / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/source/0123abcd/nets-000-009.csv\n")
    assert main(["prune", "--yes"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dwp: Snakemake has locked this folder: ")
    assert "`snakemake --unlock`" in error
    assert error.count("\n") == 1
    assert main(["prune"]) == 0
    (locks / "0.output.lock").unlink()

    claiming = (
        "from dwp.claims import claim; claim(['results/source/0123abcd/a']); print(flush=True); input()"
    )
    command, pipe = [sys.executable, "-c", claiming], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as run:
        run.stdout.readline()
        assert main(["prune", "--yes"]) == 2
        assert capsys.readouterr().err == "dwp: a workflow is running here; wait for its end, then prune\n"
        run.communicate(b"\n")
    assert labels(versions.read()) == before
    assert main(["prune", "--yes"]) == 0
    assert versions.read() == []


def test_every_named_configuration_counts(results, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("source: {l2: 0.5}\n")
    default, other = (Plan(read_config(files)) for files in ([], [overlay]))
    put(default.source, "nets-000-009.csv")
    put(other.source, "nets-000-009.csv")
    shutil.rmtree(results / "latest")

    assert main(["versions", "--json", "--configfile", "overlay.yaml"]) == 0
    used = {f"{v['stage']}/{v['version']}": v["used_by"] for v in json.loads(capsys.readouterr().out)}
    assert used[label(other.source)] == ["overlay"]
    assert used[label(default.source)] == []

    assert main(["prune", "--yes", "--configfile", "overlay.yaml"]) == 0
    assert set(labels(versions.read())) == {label(default.source), label(other.source)}
    assert main(["prune", "--yes"]) == 0
    assert labels(versions.read()) == [label(default.source)]


def test_values_count_as_with_snakemake(results, tmp_path, capsys):
    (tmp_path / "overlay.yaml").write_text("source: {l2: 0.5}\n")
    entries = ["data={source: digits}", "precision=bfloat16", f"data_root={tmp_path}"]
    made = [
        Plan(read_config(files, values)).source
        for files in ([], [tmp_path / "overlay.yaml"])
        for values in ([], entries)
    ]
    assert len({artifact.version for artifact in made}) == 4
    for artifact in made:
        put(artifact, "nets-000-009.csv")
    assert main(["versions", "--json", "--config", *entries]) == 0
    used = {f"{v['stage']}/{v['version']}": v["used_by"] for v in json.loads(capsys.readouterr().out)}
    assert [used[label(artifact)] for artifact in made] == [[], [" ".join(["config.yaml", *entries])], [], []]

    assert main(["prune", "--yes", "--configfile", "overlay.yaml", "--config", *entries]) == 0
    assert set(labels(versions.read())) == {label(made[0]), label(made[3])}
    assert main(["prune", "--yes", "--config", *entries]) == 0
    assert labels(versions.read()) == [label(made[0])]


# The command line


def test_overlays_are_laid_over_as_snakemake_does(tmp_path):
    from snakemake.utils import update_config

    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("source: {nets: 3, schedule: {lr: 0.5}}\nexperiments: {few_shot: null}\n")
    second.write_text("source: {nets: 4}\nkernels: {threshold: {7x7: 0.1, 5x5: 0.2}}\n")
    expected = yaml.safe_load((ROOT / "config.yaml").read_text())
    for file in (first, second):
        update_config(expected, yaml.safe_load(file.read_text()))
    assert read_config([first, second]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["versions", "--directory", "nowhere"], "there is no folder nowhere"),
        (["verify"], "there is no folder results in"),
        (["prune", "--configfile", "nowhere.yaml"], "cannot read the configuration"),
        (["prune", "--configfile", "list.yaml"], "is no mapping"),
        (["prune", "--configfile", "bad.yaml"], "config: sorce: unknown key, did you mean 'source'?"),
        (["prune", "--config", "sorce=3"], "config: sorce: unknown key, did you mean 'source'?"),
        (["prune", "--config", "data_root"], "--config: Invalid config definition"),
        (["prune", "--config", "data_root=nowhere"], "config: data_root: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("[1]\n")
    (tmp_path / "bad.yaml").write_text("sorce: {nets: 3}\n")
    if arguments[0] == "prune":
        (tmp_path / "results").mkdir()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_list_reads_well(results, capsys):
    assert main(["versions"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["STAGE", "VERSION", "NAME", "CELLS", "FROM", "SIZE", "AGE", "USED", "BY"]
    assert len(rows) == 5
    assert any(row.split()[:5] == ["priors", PRIOR.version, "vae-7x7", "1", label(SOURCE)] for row in rows)


@pytest.mark.parametrize("words", [[], ["versions"], ["diff"], ["verify"], ["prune"]])
def test_help_is_there(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert "usage: dwp" in capsys.readouterr().out
