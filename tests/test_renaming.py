"""Methods and priors that are only renamed in the configuration: no job but the report's runs."""

import copy
import json
import shutil

import pandas as pd
import pytest
import yaml
from configurations import BASE, DEFAULT, merged, plan
from conftest import ROOT
from dry_runs import NOTHING, REPORT, dry_run

from dwp.experiments.methods import with_names
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest, save_manifest
from dwp.pipeline.roles import assign_roles
from dwp.report.aggregation import scores_by_name, trials_by_name

SMOKE = merged(DEFAULT, yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text()))


def with_prior_renamed(config: dict, old: str, new: str) -> dict:
    """Return an overlay that gives a prior another name, in all methods and their spaces."""
    methods = {}
    for name, settings in config["experiments"].items():
        renamed = {}
        for method, own in settings["methods"].items():
            if own is not None:
                renamed[method] = with_names(own, {old: new})
                if "prior" in (own.get("space") or {}):
                    values = [new if value == old else value for value in own["space"]["prior"]]
                    renamed[method]["space"] = {**own["space"], "prior": values}
        methods[name] = {"methods": renamed}
    return {"priors": {old: None, new: config["priors"][old]}, "experiments": methods}


def versions(made) -> list[str]:
    return sorted(version for version in made.artifacts if version != made.report.version)


# Versions


def test_a_role_is_the_kind_whatever_the_names():
    priors = {"a": ("vae", "1"), "b": ("vae", "0"), "c": ("gaussian", "0"), "d": ("vae", "1")}
    assert assign_roles(priors) == {"a": "vae-2", "b": "vae", "c": "gaussian", "d": "vae-2"}
    assert assign_roles({"z": ("vae", "1")}) == {"z": "vae"}


@pytest.mark.parametrize("prior", ["vae", "filters", "log_uniform", "molchanov"])
def test_a_renamed_prior_changes_the_version_of_the_report_only(prior):
    before, after = plan(), plan(with_prior_renamed(BASE, prior, "other"))
    assert versions(before) == versions(after)
    # The report shows no name of a prior without a density or few-shot results.
    assert (before.report.version != after.report.version) == (prior != "molchanov")
    cells = [[file for name in BASE["experiments"] for file in made.cells(name)] for made in (before, after)]
    assert cells[0] == cells[1]
    for version in before.artifacts:
        if version != before.report.version:
            assert before.spec(version) == after.spec(version)


def test_priors_of_one_kind_keep_their_roles_under_other_names():
    space = {"prior": ["standard_normal", "narrow", "wide"]}
    tuned = {
        "priors": {
            "narrow": {"kind": "standard_normal", "scale": 0.1},
            "wide": {"kind": "standard_normal", "scale": 3.0},
        },
        "data": {"tuning": "glyphs-k-t"},
        "experiments": {
            "few_shot": {
                "tuning": {"trials": 3, "examples": [30], "seeds": 1, "metric": "nll"},
                "methods": {"standard_normal": {"space": space}},
            }
        },
    }
    config = merged(BASE, tuned)
    before = plan(tuned)
    after = plan(merged(tuned, with_prior_renamed(config, "narrow", "zzz")))
    # Each takes the other's name.
    swapped = copy.deepcopy(tuned)
    swapped["priors"] = {"narrow": tuned["priors"]["wide"], "wide": tuned["priors"]["narrow"]}
    swapped["experiments"]["few_shot"]["methods"]["standard_normal"]["space"] = {
        "prior": ["standard_normal", "wide", "narrow"]
    }
    assert versions(before) == versions(after) == versions(plan(swapped))
    made = before.tunings["few_shot", "standard_normal"]
    chosen = [trial["prior"] for trial in made.params["trials"]]
    assert sorted(chosen) == ["standard_normal", "standard_normal-2", "standard_normal-3"]
    roles = before.method_roles("few_shot", "standard_normal")
    assert set(roles) == {"standard_normal", "narrow", "wide"}
    assert set(roles.values()) == set(chosen)
    analytic = before.methods["few_shot", "standard_normal"].params["priors"]
    assert {roles[name]: analytic[roles[name]].get("scale", 1.0) for name in roles} == {
        roles["narrow"]: 0.1,
        roles["standard_normal"]: 1.0,
        roles["wide"]: 3.0,
    }


# What the report shows


def test_the_report_shows_the_names_of_the_configuration():
    table = pd.DataFrame({"size": [7, 7, 7, 5], "prior": [None, "vae", "vae-2", "vae"], "mean": [0, 1, 2, 3]})
    shown = scores_by_name(table, {7: {"big": "vae-2", "small": "vae", "again": "vae"}})
    assert [name if isinstance(name, str) else None for name in shown["prior"]] == [
        None, "big", "small", "again", "vae",
    ]  # fmt: skip
    assert list(shown["mean"]) == [0, 2, 1, 1, 3]
    settings = [json.dumps({"prior": "vae-2", "init": {"from": "vae"}}), json.dumps({"lr": 0.1})]
    trials = pd.DataFrame({"method": ["a", "b"], "settings": settings})
    shown = trials_by_name(trials, {"a": {"big": "vae-2", "small": "vae"}})
    assert [json.loads(text) for text in shown["settings"]] == [
        {"prior": "big", "init": {"from": "small"}},
        {"lr": 0.1},
    ]


# Runs


def renamed_method(old: str, new: str) -> dict:
    own = SMOKE["experiments"]["few_shot"]["methods"][old]
    return {"experiments": {"few_shot": {"methods": {old: None, new: own}}}}


@pytest.fixture
def run(smoke_run, tmp_path):
    return shutil.copytree(smoke_run, tmp_path / "run", symlinks=True)


OVERLAYS = {
    "a prior": with_prior_renamed(SMOKE, "vae", "learned"),
    "a control": with_prior_renamed(SMOKE, "standard_normal", "n01"),
    "a method": renamed_method("l2_dwp", "plain"),
    "a tuned method": renamed_method("l2_xavier", "plain"),
    "a tuned method and its prior": merged(
        with_prior_renamed(SMOKE, "vae", "learned"),
        {
            "experiments": {
                "few_shot": {
                    "methods": {
                        "dwp": None,
                        "ours": with_names(
                            SMOKE["experiments"]["few_shot"]["methods"]["dwp"], {"vae": "learned"}
                        ),
                    }
                }
            }
        },
    ),
}


@pytest.mark.parametrize("overlay", OVERLAYS.values(), ids=OVERLAYS)
@pytest.mark.parametrize("records", [True, False], ids=["with records", "without"])
def test_renaming_runs_the_report_only(run, tmp_path, overlay, records):
    if not records:
        shutil.rmtree(run / ".snakemake")
    file = tmp_path / "overlay.yaml"
    file.write_text(yaml.safe_dump(overlay))
    assert dry_run(ROOT, run, file) == REPORT
    assert dry_run(ROOT, run) == NOTHING


def test_rows_under_a_new_name_differ_in_the_name_only(run, tmp_path):
    file = tmp_path / "overlay.yaml"
    file.write_text(yaml.safe_dump(OVERLAYS["a tuned method"]))
    dry_run(ROOT, run, file)
    for old in (run / "results").glob("*/*/*l2_xavier*.csv"):
        new = old.with_name(old.name.replace("l2_xavier", "plain"))
        if "tuning" in str(old) or old.parent.parent.name == "few_shot":
            assert new.read_text() == old.read_text().replace(",l2_xavier,", ",plain,") != old.read_text()
            assert new.stat().st_mtime_ns == old.stat().st_mtime_ns
            record = read_manifest(paths.manifest(new))
            assert record["renamed_from"] == paths.manifest(old).name
            assert record["job"]["wildcards"]["method"] == "plain"
            assert set(record["files"]) <= set(record["job"]["output"].values())


@pytest.mark.parametrize("damage", ["rows", "manifest", "code", "job"])
def test_unsound_results_do_not_take_a_new_name(run, tmp_path, damage):
    (old,) = (run / "results").glob("few_shot/*/l2_dwp_examples-20_*.csv")
    manifest = paths.manifest(old)
    if damage == "rows":
        old.write_text(old.read_text() + "\n")
    elif damage == "job":  # as in manifests of earlier releases
        record = read_manifest(manifest)
        del record["job"]
        save_manifest(manifest, record)
    else:
        text = manifest.read_text()
        code = read_manifest(manifest)["code"]
        manifest.write_text(text.replace(code, "0" * 32) if damage == "code" else text[:-100])
    file = tmp_path / "overlay.yaml"
    file.write_text(yaml.safe_dump(OVERLAYS["a method"]))
    assert dry_run(ROOT, run, file) == {"few_shot/plain": 1} | REPORT
