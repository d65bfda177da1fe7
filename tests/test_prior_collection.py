"""The command that adds priors of a finished run to the collection."""

import json
import os

import pandas as pd
import pytest
from conftest import ROOT

import dwp
from dwp import loading
from dwp.errors import InputError
from dwp.pipeline import collection
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
    (scores,) = results.glob("scores/5x5/*.csv")
    rows = pd.read_csv(scores)
    row = rows[(rows["prior"] == "vae") & (rows["samples"] == 5)].iloc[0]
    assert facts["held_out"] == {
        "log_prob": row["mean"],
        "standard_error": row["standard_error"],
        "kernels": row["kernels"],
        "samples": 5,
    }
    (manifest,) = results.glob("priors/vae-5x5/*.manifest.json")
    assert facts["versions"]["prior"] == f"priors/{json.loads(manifest.read_text())['version']}"
    assert facts["networks"]["number"] == 8
    assert facts["data"]["images"] == {"train": 1000, "test": 200}
    cells = pd.concat(map(pd.read_csv, results.glob("few_shot/l2_xavier/*examples-20_*.csv")))
    last = cells[(cells["metric"] == "accuracy") & (cells["step"] == cells["step"].max())]
    found = [r for r in facts["few_shot"]["rows"] if (r["method"], r["examples"]) == ("l2_xavier", 20)]
    assert [r["accuracy"] for r in found] == [pytest.approx(last["value"].mean())]
    # The methods with other priors are not about this one.
    assert {r["method"] for r in facts["few_shot"]["rows"]} == {"dwp", "l2_dwp", "l2_xavier"}
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


def test_what_cannot_be_added_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("results")
    plan = Plan(read_config([SMOKE]))
    for prior in ("filters", "standard_normal", "other"):
        with pytest.raises(InputError, match=f"priors.{prior} is not a fitted prior with a density"):
            collection.add(plan, prior)
    monkeypatch.delitem(collection.LICENCES, "glyphs")
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
