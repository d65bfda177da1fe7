"""The experiment on sparse recurrent networks: its rows, its refusals, its figures, its configuration."""

import pandas as pd
import pytest
import torch
from configurations import plan
from experiment_samples import SCHEDULE

from dwp.data.text import Text
from dwp.errors import InputError
from dwp.experiments import base, task
from dwp.experiments.base import COLUMNS
from dwp.pipeline.config.files import read_config
from dwp.pipeline.paths import ROOT
from dwp.pipeline.plan import Plan
from dwp.pipeline.typed import parse
from dwp.report import figures
from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults
from dwp.training.checkpoints import Checkpoint

METHODS = {
    "dense": {"sparse": False},
    "weights": {},
    "gates": {"groups": ["gates", "neurons"]},
    "vocabulary": {"groups": ["vocabulary", "gates", "neurons"], "kl_weight": 0.01},
}
RHYME = "the cat sat on the mat, and the dog sat on the cat: nan, None\n"
TEXT = Text("rhymes", (RHYME * 6, RHYME * 2), (RHYME,))
REVIEWS = Text(
    "reviews", ("good film", "bad film", "good", "bad bad") * 4, ("good", "bad"), (1, 0) * 8, (1, 0)
)
STEPS = SCHEDULE | {"batch": 4, "lr": 0.02}


@pytest.fixture
def run():
    def run(method, seeds=(0,), text=TEXT, checkpoint=None, **changes):
        given = {
            **{"network": {"embedding": 4, "hidden": 5}, "schedule": STEPS, "every": 2, "predict": "next"},
            **{"level": "words", "vocabulary": None, "length": 6, "examples": [12], "warmup": 0.5},
            **{"tolerance": 0.0, "seeds": 2, "shard": 2, "methods": {"method": METHODS[method]}},
        }
        settings = parse(base.find("sparse_rnn").settings, given | changes)
        shared = {
            "settings": settings,
            "method": settings.methods["method"],
            "dataset": text,
            "priors": {},
            "device": torch.device("cpu"),
            "checkpoint": checkpoint,
        }
        return [row for seed in seeds for row in task.run("sparse_rnn", method, seed, **shared)]

    return run


def last(rows, metric):
    return {row["part"]: row["value"] for row in rows if row["metric"] == metric}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", ["words", "characters"])
def test_rows_are_tidy_and_repeat(run, method, level):
    rows = run(method, level=level)
    assert {tuple(row) for row in rows} == {COLUMNS}
    keys = [(row["step"], row["metric"], row["part"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert {row["metric"] for row in rows} <= {one.name for one in base.find("sparse_rnn").metrics}
    assert all(isinstance(row["value"], float) for row in rows)
    assert [row["step"] for row in rows if row["metric"] == "nll"] == [0, 2, 4]
    words = 2 + (len({*RHYME}) if level == "characters" else 12)
    (weights,) = last(rows, "weights").values()
    assert weights == words * 4 + 4 * 5 * (4 + 5) + 5 * words
    assert list(last(rows, "gates")) == ["input", "forget", "flow", "output"]
    assert 0 <= last(rows, "error")[""] <= 100
    if method != "dense":
        compression, losses = last(rows, "curve_compression"), last(rows, "curve_loss")
        chosen = last(rows, "compression")[""], last(rows, "loss")[""]
        assert chosen in zip(compression.values(), losses.values(), strict=True)
        assert list(compression.values()) == sorted(compression.values())
        assert next(iter(compression.values())) == 1
        assert len(last(rows, "gate_weights")) == 4 * 5
        names = list(last(rows, "word_norm"))
        assert len(names) == words
        assert names[:2] == ["0000 '<unk>'", "0001 '<pad>'"]
    else:
        assert last(rows, "loss")[""] == last(rows, "nll")[""]
    assert run(method, level=level) == rows


def test_labels_of_documents_are_predicted(run):
    steps = STEPS | {"steps": 80, "lr": 0.05}
    for method in ("dense", "vocabulary"):
        rows = run(method, text=REVIEWS, predict="label", length=2, schedule=steps)
        assert last(rows, "error")[""] == 0
        (weights,) = last(rows, "weights").values()
        assert weights == 5 * 4 + 4 * 5 * (4 + 5) + 5 * 2


def test_twenty_steps_train(run):
    for method in ("dense", "vocabulary"):
        losses = last(run(method, schedule=STEPS | {"steps": 20, "lr": 0.05}, every=0), "nll")
        before = last(run(method, schedule=STEPS | {"steps": 1, "lr": 1e-9}, every=0), "nll")
        assert losses[""] < before[""] - 0.3


def test_an_interrupted_run_ends_in_the_same_rows(run, tmp_path, monkeypatch):
    checkpoint, saves = Checkpoint(tmp_path / "cell.pt", "cell", seconds=0), []

    def save(self, state, save=Checkpoint.save):
        save(self, state)
        saves.append(state["step"])
        if len(saves) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run("gates", checkpoint=checkpoint)
    assert run("gates", checkpoint=checkpoint) == run("gates")


def test_what_the_text_lacks_is_refused(run):
    with pytest.raises(InputError, match="examples: 100 is more than the 25 training sequences of rhymes"):
        run("dense", examples=[100])
    with pytest.raises(InputError, match=r"length: 1000 is more than the \d+ tokens of train of rhymes"):
        run("dense", length=1000)
    with pytest.raises(InputError, match="rhymes has no labels; use predict: next"):
        run("dense", predict="label")


def test_figures(run, tmp_path):
    rows = [row for method in METHODS for row in run(method, seeds=(0, 1))]
    path = tmp_path / "rows.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    # As the report reads it: names of words do not become missing values.
    table = pd.read_csv(path, dtype={"part": str}).fillna({"part": ""})
    assert any(part.endswith("'nan'") for part in table["part"])
    results = ExperimentResults(
        "sparse_rnn", base.find("sparse_rnn"), table, pd.DataFrame({"method": [], "label": []})
    )
    curve = figures.find("by_compression")(results, Plot(), metric="loss")
    assert len(curve.axes[0].lines) == 2 + 3 * 2 * 2
    assert curve.axes[0].get_ylabel() == "test loss after pruning [nats]"
    gates = figures.find("gates_that_stay")(results, Plot())
    titles = ["weights", "gates", "vocabulary"]
    assert [ax.get_title() for ax in gates.axes[:3]] == titles
    words = figures.find("words_that_stay")(results, Plot())
    assert [ax.get_title().split(":")[0] for ax in words.axes] == titles
    for figure in (curve, gates, words):
        figure.savefig(tmp_path / "figure.png")


# Configurations


OVERLAY = ROOT / "config" / "sparse-rnn.yaml"


def test_a_run_on_text_alone_needs_no_images_and_no_source_networks():
    made = Plan(read_config([OVERLAY]))
    assert made.methods["sparse_rnn", "dense"].inputs["dataset"].name == "python-docs"
    assert made.datasets == ["python-docs"]
    assert not made.config.trains_source
    stages = {file.split("/")[1] for file in made.files()}
    assert stages == {"data", "sparse_rnn", "report"}
    assert not any("norms" in file or "kernels" in file for file in made.files())
    methods = made.config.experiments["sparse_rnn"].methods.values()
    assert {group for method in methods for group in method.groups} == {"vocabulary", "gates", "neurons"}


def test_a_run_on_images_reads_no_text():
    assert "python-docs" not in plan().datasets
    assert plan().datasets[0] == "digits"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("data={text: digits}", "config: data.text: 'digits' is a set of images; .* reads text"),
        ("data={text: imdb}", "imdb is not downloaded; put the folder aclImdb"),
        ("data={text: pyton-docs}", "config: data.text: unknown data set 'pyton-docs'"),
        ("data={target: python-docs}", "config: data.target: data set python-docs is text, not images"),
    ],
)
def test_data_sets_of_the_wrong_kind_are_refused(entry, message):
    with pytest.raises(InputError, match=message):
        Plan(read_config([OVERLAY], [entry]))
