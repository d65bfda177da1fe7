"""The console script: listing, comparing and removing versions."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from version_samples import (
    OTHER_PRIOR,
    OTHER_SOURCE,
    PRIOR,
    REPORT,
    SOURCE,
    backdate,
    label,
    labels,
    put,
    put_results,
)

from dwp.errors import InputError
from dwp.pipeline.config.files import read_config
from dwp.pipeline.config.model import read
from dwp.pipeline.plan import Plan
from dwp.pipeline.provenance import Artifact
from dwp.results import artifact_store
from dwp.results.cli import main
from dwp.results.version_diff import diff


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Work in a folder with two versions of nets and priors, and a report of the first."""
    monkeypatch.chdir(tmp_path)
    return put_results()


# Reading


def test_versions_say_what_they_are_and_come_in_the_order_of_the_pipeline(results):
    found = artifact_store.read()
    assert [version.stage for version in found] == ["source", "source", "priors", "priors", "report"]
    source = artifact_store.find(found, SOURCE.version)
    assert (source.names, len(source.manifests)) == (["nets"], 2)
    assert source.size == sum(path.stat().st_size for path in source.folder.iterdir())
    assert artifact_store.find(found, PRIOR.version).spec["inputs"] == {"source": label(SOURCE)}
    assert not any(version.unrecorded_files for version in found)


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
    put(Artifact("source" if name == "nets" else "priors", {"stem": stem}), f"{stem}.csv")
    assert name in [name for version in artifact_store.read() for name in version.names]


def test_what_only_looks_like_a_version_is_passed_over(results, tmp_path):
    before = labels(artifact_store.read())
    (results / "diary" / "20261120").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (results / "priors" / "0123abcd").symlink_to(tmp_path / "elsewhere")
    (results / "priors" / "notes").mkdir()
    assert labels(artifact_store.read()) == before


def test_a_version_is_found_by_what_people_call_it(results):
    found = artifact_store.read()
    for name in (
        PRIOR.version,
        label(PRIOR),
        f"results/{label(PRIOR)}/",
        "priors/vae-7x7",
        label(PRIOR)[:-2],
    ):
        assert artifact_store.find(found, name).label == label(PRIOR)
    with pytest.raises(InputError, match=r"not unique: source/.*, source/"):
        artifact_store.find([*found, *found], SOURCE.version)
    for name in ("ffffffff", "", f"source/{PRIOR.version}"):
        with pytest.raises(InputError, match="there is no version"):
            artifact_store.find(found, name)


# Comparing


def test_a_difference_has_dotted_paths_and_goes_on_into_the_inputs(results):
    found = artifact_store.read()
    a, b = artifact_store.find(found, PRIOR.version), artifact_store.find(found, OTHER_PRIOR.version)
    difference = diff(a, b, found)
    assert difference["changes"] == [
        {"path": "inputs.source", "a": label(SOURCE), "b": label(OTHER_SOURCE)},
        {"path": "params.schedule.lr", "b": 0.1},
    ]
    assert difference["inputs"]["source"]["changes"] == [
        {"path": "params.l2", "a": 0.01, "b": 0.02},
        {"path": "params.layers.1.conv", "a": 8, "b": 9},
    ]
    assert diff(a, a, found)["changes"] == []


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


# Removing


def test_what_is_being_written_is_kept_for_a_day(results):
    empty = results / "kernels" / "0123abcd"
    empty.mkdir(parents=True)
    half = results / "priors" / OTHER_PRIOR.version
    (half / "vae-5x5.log").write_text("started\n")
    remove, keep = artifact_store.unreferenced(artifact_store.read(), {label(SOURCE)})
    assert sorted(labels(keep)) == sorted(["kernels/0123abcd", label(OTHER_PRIOR)])
    assert label(SOURCE) not in labels(remove)
    for folder in (empty, half):
        backdate(folder, 1.1)
    remove, keep = artifact_store.unreferenced(artifact_store.read(), {label(SOURCE)})
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
    assert len(artifact_store.read()) == 5

    assert main(["prune", "--yes", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["unused"]) == set(map(label, (SOURCE, OTHER_SOURCE, PRIOR, OTHER_PRIOR, REPORT)))
    assert all(size > 0 for size in shown["unused"].values())
    assert artifact_store.read() == []
    assert not any((results / "latest").rglob("*"))
    assert (outside / "mine.txt").exists()
    assert (results / "downloads" / "mnist.gz").exists()


def test_prune_deletes_nothing_while_a_workflow_runs(results, capsys):
    before = labels(artifact_store.read())
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

    locking = (
        "from dwp.pipeline.claims import claim; "
        "claim(['results/source/0123abcd/a']); print(flush=True); input()"
    )
    command, pipe = [sys.executable, "-c", locking], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as run:
        run.stdout.readline()
        assert main(["prune", "--yes"]) == 2
        assert capsys.readouterr().err == "dwp: a workflow is running here; wait for its end, then prune\n"
        run.communicate(b"\n")
    assert labels(artifact_store.read()) == before
    assert main(["prune", "--yes"]) == 0
    assert artifact_store.read() == []


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
    assert set(labels(artifact_store.read())) == {label(default.source), label(other.source)}
    assert main(["prune", "--yes"]) == 0
    assert labels(artifact_store.read()) == [label(default.source)]


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
    assert set(labels(artifact_store.read())) == {label(made[0]), label(made[3])}
    assert main(["prune", "--yes", "--config", *entries]) == 0
    assert labels(artifact_store.read()) == [label(made[0])]


# The command line


def test_overlays_are_laid_over_as_snakemake_does(tmp_path):
    from snakemake.utils import update_config

    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("source: {nets: 3, schedule: {lr: 0.5}}\nexperiments: {few_shot: null}\n")
    second.write_text("source: {nets: 4}\nkernels: {threshold: {7x7: 0.1, 5x5: 0.2}}\n")
    expected = yaml.safe_load((ROOT / "config.yaml").read_text())
    for file in (first, second):
        update_config(expected, yaml.safe_load(file.read_text()))
    assert read_config([first, second]) == read(expected)


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
