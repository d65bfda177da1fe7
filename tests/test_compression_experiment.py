"""The experiment on compression: its rows, the choice of thresholds, the warm-up, its figures and table."""

import dataclasses

import pandas as pd
import pytest
import torch
from experiment_samples import SCHEDULE, XAVIER, dataset
from PIL import Image

from dwp.errors import InputError
from dwp.experiments import _compression, _pruning, base, task
from dwp.experiments.base import COLUMNS
from dwp.nn.convnet import build
from dwp.pipeline.config.files import read_config
from dwp.pipeline.paths import ROOT
from dwp.pipeline.typed import parse
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.report import build as build_report
from dwp.report import catalogue, figures, published, tables
from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults
from dwp.training.checkpoints import Checkpoint

__all__ = ["dataset"]

CONVOLUTIONS = {"layers": [{"conv": 4, "kernel": 5, "pool": 4}, {"linear": 6}], "batch_norm": False}
CONNECTED = {"layers": [{"linear": 8}, {"linear": 6}], "batch_norm": False}
BAYESIAN = {"posterior": "additive", "prior": "standard_normal", "init": XAVIER}
METHODS = {
    "dense": {"posterior": "none", "init": XAVIER},
    "normal_jeffreys": BAYESIAN | {"scales": "normal_jeffreys", "largest_variance": 0.04},
    "horseshoe": BAYESIAN | {"scales": "horseshoe"},
    "sparse_vd": BAYESIAN | {"prior": "molchanov", "linear": "log_uniform"},
    "ard": BAYESIAN | {"linear": "ard"},
    "hierarchical_ard": BAYESIAN | {"linear": "hierarchical_ard"},
}


@pytest.fixture
def run(dataset):
    def run(method, network=CONVOLUTIONS, seeds=(0,), checkpoint=None, examples=30, data=dataset, **changes):
        declared = base.find("compression")
        given = {
            **{"network": network, "schedule": SCHEDULE | {"batch": 8, "lr": 0.01}, "every": 2},
            **{"warmup": 0.5, "tolerance": 0.0, "measure_time": False, "examples": [examples]},
            **{"seeds": 2, "shard": 2, "methods": {"method": METHODS[method]}},
        }
        settings = parse(declared.settings, given | changes)
        shared = {
            "settings": settings,
            "method": settings.methods["method"],
            "dataset": data,
            "priors": {
                "standard_normal": {5: StandardNormal(5)},
                "molchanov": {5: LogUniform(5, "molchanov")},
            },
            "device": torch.device("cpu"),
            "checkpoint": checkpoint,
        }
        return [row for seed in seeds for row in task.run("compression", method, seed, **shared)]

    return run


def last(rows, metric):
    return {row["part"]: row["value"] for row in rows if row["metric"] == metric}


@pytest.mark.parametrize("network", [CONVOLUTIONS, CONNECTED], ids=["convolutions", "connected"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_tidy_and_repeat(run, method, network):
    rows = run(method, network)
    assert {tuple(row) for row in rows} == {COLUMNS}
    keys = [(row["step"], row["metric"], row["part"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert {row["metric"] for row in rows} <= {one.name for one in base.find("compression").metrics}
    assert all(isinstance(row["value"], float) for row in rows)
    (weights,) = last(rows, "weights").values()
    assert weights == (4 * 25 + 144 * 6 + 6 * 3 if network is CONVOLUTIONS else 784 * 8 + 8 * 6 + 6 * 3)
    first = [row["part"] for row in rows if row["metric"] == "first_layer" and row["step"] == 0]
    assert len(first) == (100 if network is CONVOLUTIONS else 784)
    names = ["conv1", "linear2"] if network is CONVOLUTIONS else ["linear1", "linear2"]
    assert list(last(rows, "outputs")) == [*names, "classifier"]
    if method != "dense":
        compression, errors = last(rows, "curve_compression"), last(rows, "curve_error")
        chosen = last(rows, "compression")[""], last(rows, "error")[""]
        assert chosen in zip(compression.values(), errors.values(), strict=True)
        assert list(compression.values()) == sorted(compression.values())
        assert next(iter(compression.values())) == 1
        assert last(rows, "low_precision_compression")[""] >= last(rows, "compression")[""]
    assert run(method, network) == rows


def test_an_interrupted_run_ends_in_the_same_rows(run, tmp_path, monkeypatch):
    checkpoint, saves = Checkpoint(tmp_path / "cell.pt", "cell", seconds=0), []

    def save(self, state, save=Checkpoint.save):
        save(self, state)
        saves.append(state["step"])
        if len(saves) == 1:  # in the middle of the warm-up
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run("normal_jeffreys", checkpoint=checkpoint)
    assert run("normal_jeffreys", checkpoint=checkpoint) == run("normal_jeffreys")


def test_the_weight_of_the_kl_grows_linearly():
    warmup = _pruning.Warmup(4, 0.5)
    weights = []
    for _ in range(6):
        warmup.advance()
        weights.append(warmup.weight.item())
    assert weights == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    without = _pruning.Warmup(0, 1.0)
    without.advance()
    assert without.weight.item() == 1


def test_the_count_of_all_examples_stands_for_all_of_them(run, dataset):
    labels = dataset.train_labels.clone()
    labels[1:13:3] = 0
    uneven = dataclasses.replace(dataset, train_labels=labels)
    assert run("dense", data=uneven)
    with pytest.raises(InputError, match=r"n = 28 needs \d+ examples of class 1, which has 6"):
        run("dense", data=uneven, examples=28)


def test_published_networks_are_those_of_the_configurations():
    numbers = {}
    for name, shape in (("compression", (1, 28, 28)), ("compression-vgg", (3, 32, 32))):
        config = read_config([ROOT / "config" / f"{name}.yaml"])
        network = build(config.experiments["compression"].network, shape, 10)
        numbers[name] = sum(layer.weight.numel() for _, layer in _compression._weighted(network))
    assert list(dict.fromkeys(published.COMPRESSION["weights"])) == list(numbers.values())


LENET = "experiments={compression: {network: {layers: [{linear: 300}, {linear: 100}]}}}"


@pytest.mark.parametrize(
    ("name", "entries"), [("everything", []), ("compression", []), ("compression", [LENET])]
)
def test_configurations_have_methods_of_every_kind(name, entries):
    config = read_config([ROOT / "config" / f"{name}.yaml"], entries)
    methods = config.experiments["compression"].methods
    assert {"normal_jeffreys", "horseshoe", "sparse_vd", "ard", "hierarchical_ard", "dense"} <= set(methods)
    if name == "compression":
        assert list(config.experiments) == ["compression"]


def test_times_are_measured_if_asked_for(run):
    rows = run("normal_jeffreys", measure_time=True)
    assert last(rows, "time")[""] > 0 < last(rows, "dense_time")[""]


@pytest.mark.parametrize("network", [CONVOLUTIONS, CONNECTED], ids=["convolutions", "connected"])
def test_figures_animation_and_table(run, tmp_path, network):
    rows = [row for method in ("dense", "normal_jeffreys") for row in run(method, network, seeds=(0, 1))]
    table = pd.DataFrame(rows)
    table.loc[table["metric"] == "weights", "value"] = 430_500
    results = ExperimentResults(
        "compression", base.find("compression"), table, pd.DataFrame({"method": [], "label": []})
    )
    curve = figures.compression.by_compression(results, Plot())
    assert len(curve.axes[0].lines) == 2 + 2 * 2
    layer = figures.compression.first_layer(results, Plot())
    assert [ax.get_title() for ax in layer.axes[:3]] == ["step 0", "step 2", "step 4"]
    frames = figures.compression.first_layer_frames(results, Plot())
    assert [frame.get_suptitle() for frame in frames] == [f"First layer, step {step}" for step in (0, 2, 4)]
    item = catalogue.Item("animations/x", "", "", "", "first_layer_frames")
    for folder in ("a", "b"):
        frames = figures.compression.first_layer_frames(results, Plot())
        build_report._write(frames, item, tmp_path / folder, 50)
    with Image.open(tmp_path / "a/animations/x.webp") as image:
        assert image.n_frames == 3
    assert len({(tmp_path / folder / "animations/x.webp").read_bytes() for folder in ("a", "b")}) == 1
    beside = tables.compression(results)
    assert list(beside["method"]) == [
        "dense",
        "normal jeffreys",
        "DC",
        "DNS",
        "SWS",
        "Sparse VD",
        "BC-GNJ",
        "BC-GHS",
    ]
    assert list(beside["published"]) == [False] * 2 + [True] * 6
    assert beside.loc[7, "low_precision_compression"] == 419
    assert beside.loc[0, "n"] == 2
