"""The whole workflow with the smoke configuration."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from configurations import DEFAULT
from conftest import copy_checkout, snakemake
from forks import forked_snakemake
from torch import nn

import dwp
from dwp.experiments import base as experiments
from dwp.files import sha256


def files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of results that match, sorted."""
    return sorted((folder / "results").glob(pattern))


def test_a_second_run_has_nothing_to_do(finished):
    again = forked_snakemake(finished, "--dry-run")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_every_stage_left_its_results_with_manifests(smoke_run):
    for stage in (
        "data",
        "source",
        "kernels",
        "priors",
        "scores",
        "tuning",
        "few_shot",
        "convergence",
        "random_features",
        "image_vae",
        "kl_importance",
        "kl_subset",
        "kl_profile",
        "report",
    ):
        manifests = files(smoke_run, f"{stage}/*/*manifest.json")
        assert manifests, stage
        for path in manifests:
            manifest = json.loads(path.read_text())
            assert manifest["stage"] == stage
            assert manifest["version"][:8] == path.parent.name
            assert manifest["files"]
            for name, digest in manifest["files"].items():
                assert sha256(path.parent / name) == digest


def test_rows_are_tidy_and_complete(smoke_run):
    rows = pd.concat(pd.read_csv(path) for path in files(smoke_run, "latest/few_shot/*/*.csv"))
    assert tuple(rows.columns) == experiments.COLUMNS
    assert set(rows["setting"]) == {20, 50}
    assert set(rows["seed"]) == {0, 1}
    assert {"accuracy", "nll", "ece", "brier", "mean_accuracy", "train_nll", "kl"} <= set(rows["metric"])
    last = rows[(rows["step"] == 20) & (rows["metric"] == "accuracy")]
    assert len(last) == 5 * 2 * 2
    assert last["value"].between(0, 1).all()


def test_chosen_settings_are_recorded_where_they_are_used(smoke_run):
    for method, trials in (("dwp", 2), ("l2_xavier", 2)):
        (table,) = files(smoke_run, f"latest/tuning/few_shot-{method}/*.csv")
        rows = pd.read_csv(table)
        assert len(rows) == trials
        assert rows["chosen"].sum() == 1
        best = rows.loc[rows["mean"].idxmin()]
        assert best["chosen"]
        chosen = json.loads(table.with_suffix(".json").read_text())
        assert chosen == json.loads(best["settings"])
        manifests = files(smoke_run, f"latest/few_shot/{method}/*.manifest.json")
        assert len(manifests) == 2
        assert [json.loads(path.read_text())["chosen"] for path in manifests] == [chosen] * 2
    report = smoke_run / "results" / "latest" / "report"
    assert pd.read_csv(report / "tables" / "few_shot_tuning.csv")["method"].tolist() == ["dwp", "l2_xavier"]
    assert "Tuned settings" in (report / "pages" / "few_shot.html").read_text()
    assert (report / "figures" / "few_shot_tuning.png").stat().st_size > 0


def test_the_prior_loads_into_anyones_model_in_two_lines(smoke_run):
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    before = model[2].weight.clone()
    prior = dwp.load_prior(smoke_run / "results/latest/priors/vae-5x5/vae-5x5.safetensors")
    assert dwp.init_(model, [prior]).changed == ["0"]
    assert torch.equal(model[2].weight, before)


COMPARED = ("standard_normal", "dwp_hmc", "l2_xavier")


def without(experiment: str, *kept: str) -> dict[str, None]:
    """Return an overlay of an experiment's methods that leaves these."""
    return dict.fromkeys(DEFAULT["experiments"][experiment]["methods"].keys() - set(kept))


def test_shards_do_not_matter_and_seeds_repeat(smoke_run, tmp_path):
    # A Bayesian, a sampled and a tuned method, and a prior that is trained.
    overlay = tmp_path / "shards.yaml"
    others = ("random_features", "image_vae", "kl_importance", "kl_subset", "kl_profile")
    experiments = dict.fromkeys(others) | {
        "few_shot": {"shard": 1, "examples": [20], "methods": without("few_shot", *COMPARED)},
        "convergence": {"methods": without("convergence", "dwp")},
    }
    overlay.write_text(yaml.safe_dump({"source": {"shard": 3}, "experiments": experiments}))
    again = snakemake(tmp_path, str(overlay), "--until", "experiment")
    assert again.returncode == 0, again.stdout[-5000:]
    for pattern, count in {
        "data/*/*.safetensors": 3,
        "kernels/*/*.h5": 2,
        "priors/*/vae-*.safetensors": 2,
        "convergence/*/dwp_*.csv": 1,
        "tuning/*/few_shot-l2_xavier.json": 1,
    }.items():
        first, second = files(smoke_run, pattern), files(tmp_path, pattern)
        assert len(second) == count, pattern
        assert [sha256(path) for path in first] == [sha256(path) for path in second], pattern
    merged, together = (
        pd.concat(
            pd.read_csv(path)
            for method in COMPARED
            for path in files(folder, f"few_shot/*/{method}_examples-20_*.csv")
        )
        for folder in (tmp_path, smoke_run)
    )
    key = ["method", "seed", "step", "metric"]
    pd.testing.assert_frame_equal(
        merged.sort_values(key).reset_index(drop=True), together.sort_values(key).reset_index(drop=True)
    )


def test_kernels_of_ones_own_make_the_source_stage_unnecessary(smoke_run, tmp_path):
    (nets,) = files(smoke_run, "source/*/nets-000-003.safetensors")
    overlay = tmp_path / "own.yaml"
    # Two priors, and one method that needs them.
    experiments = dict.fromkeys(DEFAULT["experiments"]) | {
        "convergence": {"methods": without("convergence", "dwp")},
    }
    priors = {"filters": None, "gaussian": None}
    own = {"kernels": {"files": [str(nets)]}, "priors": priors, "experiments": experiments}
    overlay.write_text(yaml.safe_dump(own))
    done = snakemake(tmp_path, str(overlay), "--until", "prior")
    assert done.returncode == 0, done.stdout[-5000:]
    assert not files(tmp_path, "source/*")
    assert len(files(tmp_path, "priors/*/*.safetensors")) == 2


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("sorce: {nets: 3}", r"config: sorce: unknown key, did you mean 'source'\?"),
        ("source: {nets: -1}", r"config: source\.nets: -1 is not allowed; expected a whole number from 1"),
        ("source: {nets: many}", r"config: source\.nets: 'many' is not allowed"),
        ("kernels: {files: [nowhere.pt]}", r"config: kernels\.files: there is no file nowhere\.pt"),
        ("data_root: nowhere", r"config: data_root: there is no folder nowhere"),
        (
            "experiments: {few_shot: {network: {layers: [{conv: 4, kernel: 9}]}}}",
            r"experiments\.few_shot\.network has 9x9 kernels, but source\.network only 7x7, 5x5",
        ),
        ("priors: {vae: {hiden: 3}}", r"config: priors\.vae\.hiden: unknown key, did you mean 'hidden'\?"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line_before_anything_runs(tmp_path, overlay, message):
    file = tmp_path / "bad.yaml"
    file.write_text(overlay + "\n")
    done = forked_snakemake(tmp_path, str(file))
    assert done.returncode != 0
    assert re.search(message, done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["few_shot_curves", "kernels", "workflow"])
def test_a_missing_caption_is_named_before_anything_runs(tmp_path, name):
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / "workflow" / "report" / f"{name}.rst").unlink()
    done = forked_snakemake(tmp_path, "--dry-run", snakefile=checkout / "Snakefile")
    assert done.returncode != 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if f"workflow/report/{name}.rst" in line]
    assert len(lines) == 1
    assert "there is no caption" in lines[0]
    assert "Traceback" not in done.stdout


def test_an_unwritable_results_folder_is_refused(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be\n")
    done = snakemake(tmp_path)
    assert done.returncode != 0
    assert "results is not a folder that can be written to" in done.stdout
    assert (tmp_path / "results").read_text().startswith("a file")
