"""The command that adds priors of a finished run to the collection."""

import json
import os

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, snakemake
from safetensors.torch import save_file

import dwp
from dwp import loading
from dwp.errors import InputError
from dwp.files import sha256
from dwp.pipeline import collection, origins
from dwp.pipeline.config.files import read_config
from dwp.pipeline.plan import Plan
from dwp.priors.base import load_prior

SMOKE = ROOT / "config" / "smoke.yaml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty collection."""
    (tmp_path / "collection").mkdir()
    monkeypatch.setattr(loading, "COLLECTION", tmp_path / "collection")
    yield tmp_path / "collection"
    loading._index.cache_clear()


def test_priors_of_a_run_are_added_with_numbers_from_its_results(smoke_run, folder, capsys):
    words = ["--directory", str(smoke_run), "--configfile", str(SMOKE), "--prior", "vae"]
    assert collection.main(words) == 0
    assert capsys.readouterr().out.count(".safetensors") == 2
    assert {path.name for path in folder.iterdir()} == {
        "index.json",
        *(f"glyphs-{size}-vae{suffix}" for size in ("7x7", "5x5") for suffix in (".safetensors", ".md")),
    }
    cards = {card.name: card for card in dwp.list_priors()}
    facts = cards["glyphs-5x5-vae"].facts
    results = smoke_run / "results" / "latest"
    (scores,) = results.glob("scores/5x5/scores-5x5.csv")
    rows = pd.read_csv(scores)
    row = rows[(rows["prior"] == "vae") & (rows["samples"] == 5)].iloc[0]
    assert facts["held_out"] == {
        "log_prob": row["mean"],
        "standard_error": row["standard_error"],
        "kernels": row["kernels"],
        "samples": 5,
    }
    gaussian = rows[rows["prior"] == "gaussian"].iloc[0]
    assert facts["gaussian"]["log_prob"] == gaussian["mean"]
    expected = f"{gaussian['mean']:.2f} ± {gaussian['standard_error']:.2f} nats per kernel for a Gaussian"
    assert expected in cards["glyphs-5x5-vae"].text
    (manifest,) = results.glob("priors/vae-5x5/*.manifest.json")
    assert facts["versions"]["prior"] == f"priors/{json.loads(manifest.read_text())['version'][:8]}"
    assert facts["networks"]["number"] == 8
    assert facts["data"]["images"] == {"train": 1000, "test": 200}
    cells = pd.concat(map(pd.read_csv, results.glob("few_shot/l2_xavier/*examples-20_*.csv")))
    last = cells[(cells["metric"] == "accuracy") & (cells["step"] == cells["step"].max())]
    found = [r for r in facts["few_shot"]["rows"] if (r["method"], r["examples"]) == ("l2_xavier", 20)]
    assert [r["accuracy"] for r in found] == [pytest.approx(last["value"].mean())]
    # The methods with other priors are not about this one.
    assert {r["method"] for r in facts["few_shot"]["rows"]} == {"dwp", "dwp_hmc", "l2_dwp", "l2_xavier"}
    assert "config/smoke.yaml" in cards["glyphs-5x5-vae"].text
    prior = dwp.load_prior("glyphs-5x5-vae")
    (file,) = results.glob("priors/vae-5x5/*.safetensors")
    state, trained = prior.state_dict(), load_prior(file).state_dict()
    assert all((state[name] == trained[name]).all() for name in trained)
    assert prior.held_out == facts["held_out"]


def test_adding_again_changes_nothing_and_others_stay(smoke_run, folder, monkeypatch):
    plan = Plan(read_config([SMOKE]))
    monkeypatch.chdir(smoke_run)
    assert collection.add(plan, "gaussian") == ["glyphs-7x7-gaussian", "glyphs-5x5-gaussian"]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    collection.add(plan, "vae")
    collection.add(plan, "gaussian")
    for path, content in before.items():
        assert path.name == "index.json" or path.read_bytes() == content
    index = json.loads((folder / "index.json").read_text())
    assert list(index) == [f"glyphs-{size}-{kind}" for size in ("5x5", "7x7") for kind in ("gaussian", "vae")]
    assert index["glyphs-5x5-gaussian"]["few_shot"] is None
    assert index["glyphs-5x5-gaussian"]["gaussian"] is None


def test_a_prior_of_published_networks_names_their_licence_data_and_files(
    folder, tmp_path, monkeypatch, capsys
):
    generator = torch.Generator().manual_seed(0)
    file = tmp_path / "network.safetensors"
    save_file({"conv.weight": torch.randn(40, 20, 3, 3, generator=generator)}, file)
    method = {"init": {"from": "mixture"}, "frozen": True, "classifier": "fitted"}
    config = yaml.safe_load((ROOT / "config" / "collection" / "ppocr-3x3.yaml").read_text())
    config["kernels"]["files"] = [file.name]
    config["data"] = {"target": "digits"}
    config["experiments"]["few_shot"].update(examples=[20], seeds=1)
    config["experiments"]["few_shot"]["methods"].update(
        frozen_mixture=method, frozen_noise=None, frozen_xavier=None
    )
    overlay = tmp_path / "published.yaml"
    overlay.write_text(yaml.safe_dump(config))
    done = snakemake(tmp_path, "--omit-from", "report", config=overlay)
    assert done.returncode == 0, done.stdout[-5000:]

    words = ["--directory", str(tmp_path), "--configfile", str(overlay)]
    assert collection.main(words) == 2
    assert "the files in kernels.files are not of known networks" in capsys.readouterr().err
    networks = origins.Networks(
        prefix="mine",
        name="My network",
        licence="My licence",
        data="my photographs",
        data_licence="taken by me",
        files={file.name: sha256(file)},
        command="unzip network.zip",
    )
    monkeypatch.setattr(origins, "PUBLISHED", (networks,))
    assert collection.main(words) == 0
    (entry,) = dwp.list_priors()
    assert (entry.name, entry.source, entry.kernels + entry.facts["kernels"]["held_out"]) == (
        *("mine-3x3", "my photographs", 800),
    )
    assert entry.facts["networks"]["number"] == 1
    assert set(entry.facts["versions"]) == {"kernels", "prior", "scores"}
    for text in ("My network", "My licence", "taken by me", sha256(file), "none pruned", "unzip network.zip"):
        assert text in entry.text
    assert [row["method"] for row in entry.facts["few_shot"]["rows"]] == ["frozen_mixture"]
    assert dwp.load_prior("mine-3x3").held_out == entry.facts["held_out"]


def test_what_cannot_be_added_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("results")
    plan = Plan(read_config([SMOKE]))
    for prior in ("filters", "standard_normal", "other"):
        with pytest.raises(InputError, match=f"priors.{prior} is not a fitted prior with a density"):
            collection.add(plan, prior)
    monkeypatch.delitem(origins.LICENCES, "glyphs")
    with pytest.raises(InputError, match="the licence of glyphs is not known"):
        collection.add(plan, "vae")
    monkeypatch.undo()
    monkeypatch.setattr(loading, "COLLECTION", folder)
    words = ["--directory", str(tmp_path), "--configfile", str(SMOKE), "--prior", "vae"]
    assert collection.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("dwp: results/data/")
    assert error.count("\n") == 1
    assert not list(folder.iterdir())
