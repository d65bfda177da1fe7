"""All experiments: rows are tidy, seeds independent, priors unchanged, interruptions without effect."""

import pytest
import torch
from experiment_samples import ALL, METHODS, METRICS, dataset, default_setting, make_priors, pretrained, run

from dwp.errors import InputError
from dwp.experiments import base
from dwp.experiments.base import COLUMNS
from dwp.training.checkpoints import Checkpoint

__all__ = ["dataset", "pretrained", "run"]


@pytest.mark.parametrize(("experiment", "method"), ALL)
def test_rows_are_tidy_and_repeat(run, experiment, method):
    rows = run(experiment, method, [2, 3])
    assert {tuple(row) for row in rows} == {COLUMNS}
    setting = default_setting(experiment)
    assert {(row["experiment"], row["method"], row["setting"]) for row in rows} == {
        (experiment, method, setting)
    }
    assert list(dict.fromkeys(row["seed"] for row in rows)) == [2, 3]
    expected = METRICS[experiment]
    if METHODS[experiment][method].get("posterior", "none") != "none":
        expected = METRICS["bayesian"]
    for seed in (2, 3):
        keys = [(row["step"], row["metric"], row["part"]) for row in rows if row["seed"] == seed]
        assert len(keys) == len(set(keys))
        bins = [key for key in keys if key[2]]
        assert {metric for _, metric, _ in bins} == (METRICS["bins"] if experiment == "few_shot" else set())
        found = [key[:2] for key in keys if not key[2]]
        curves = {key for key in found if key[1] not in METRICS["once"]}
        at_zero = expected - {"train_nll", "train_lower_bound", "kl"}
        assert curves == {(0, m) for m in at_zero} | {(step, m) for step in (2, 4) for m in expected}
        once = {key for key in found if key[1] in METRICS["once"]}
        assert once == ({(4, m) for m in METRICS["once"]} if experiment == "few_shot" else set())
    # The experiment declares the metrics of its rows.
    assert {row["metric"] for row in rows} <= {metric.name for metric in base.find(experiment).metrics}
    values = [(row["value"], row["metric"]) for row in rows]
    assert all(isinstance(value, float) for value, _ in values)
    assert all(0 <= value <= 1 for value, metric in values if metric in ("accuracy", "ece", "mean_accuracy"))
    torch.manual_seed(77)
    assert run(experiment, method, [2, 3]) == rows


@pytest.mark.parametrize(("experiment", "method"), ALL)
def test_a_seed_does_not_depend_on_the_others(run, experiment, method):
    rows = run(experiment, method, [0, 1])
    assert run(experiment, method, [1]) == [row for row in rows if row["seed"] == 1]
    values = [[row["value"] for row in rows if row["seed"] == seed] for seed in (0, 1)]
    assert values[0] != values[1]


@pytest.mark.parametrize("train_reverse_model", [False, True])
@pytest.mark.parametrize(("experiment", "method"), ALL)
def test_priors_are_left_as_they_were(run, experiment, method, train_reverse_model):
    def facts():
        for prior in (prior for sizes in priors.values() for prior in sizes.values()):
            for tensor in prior.state_dict(keep_vars=True).values():
                yield tensor.requires_grad, tensor.stride(), tensor.tolist()

    priors = make_priors()
    before = list(facts())
    settings = {"train_reverse_model": train_reverse_model} if experiment == "few_shot" else {}
    run(experiment, method, [0], priors=priors, **settings)
    assert list(facts()) == before


@pytest.mark.parametrize(
    ("experiment", "method", "settings"),
    [
        ("few_shot", "dwp", {}),
        ("few_shot", "dwp", {"train_reverse_model": True}),
        ("random_features", "filters", {}),
        ("image_vae", "dwp", {}),
    ],
)
def test_an_interrupted_experiment_ends_in_the_same_rows(
    run, tmp_path, monkeypatch, experiment, method, settings
):
    checkpoint, saves = Checkpoint(tmp_path / "cell.pt", "cell", seconds=0), []

    def save(self, state, save=Checkpoint.save):
        save(self, state)
        saves.append(state["step"])
        if len(saves) == 5:  # three saves of seed 0, two of seed 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, method, [0, 1], checkpoint=checkpoint, **settings)
    assert checkpoint.of(1).path.exists()
    expected = run(experiment, method, [0, 1], **settings)
    assert run(experiment, method, [0, 1], checkpoint=checkpoint, **settings) == expected
    # Finished seeds are kept until their shard is complete.
    assert {path.name for path in tmp_path.iterdir()} == {"cell-0.pt", "cell-1.pt"}
    monkeypatch.setattr(torch.optim.Adam, "step", None)
    assert run(experiment, method, [0, 1], checkpoint=checkpoint, **settings) == expected
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_unknown_experiments_name_the_known_ones():
    with pytest.raises(
        InputError,
        match="'fewshot' is not known; use one of compression, convergence, few_shot, image_vae, kl_",
    ):
        base.find("fewshot")
