"""Whole configurations: the default, the overlays of config/, and entries that null removes."""

import copy

import pytest
import yaml
from configurations import BASE, DEFAULT, merged, plan
from conftest import ROOT

from dwp.pipeline.config.model import read
from dwp.pipeline.plan import Plan
from dwp.pipeline.typed import dump
from dwp.priors.settings import VAESettings, find, known

OVERLAYS = sorted([*(ROOT / "config").glob("*.yaml"), *(ROOT / "config" / "collection").glob("*.yaml")])


def test_the_default_configuration_plans():
    made = plan()
    assert made.config.sizes == [7, 5]
    assert set(made.config.experiments) == {
        "few_shot",
        "convergence",
        "random_features",
        "image_vae",
        "kl_importance",
        "kl_subset",
        "kl_profile",
    }


def test_there_are_overlays():
    assert {"paper-mnist.yaml", "smoke.yaml"} <= {path.name for path in OVERLAYS}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_plan(overlay, tmp_path, monkeypatch):
    config = merged(DEFAULT, yaml.safe_load(overlay.read_text()))
    monkeypatch.chdir(tmp_path)
    for folder in config["kernels"]["files"] or []:  # published networks are not part of the repository
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "network.onnx").touch()
    made = Plan(read(config))
    for experiment in made.config.experiments:
        assert made.cells(experiment)
        assert len(made.cells(experiment)) == len(set(made.cells(experiment)))
    assert made.report_files()


def test_the_comparison_of_priors_has_every_kind_and_goes_on_other_data():
    mnist, small, overlay = (
        yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        for name in ("mnist-cpu", "collection/glyphs-3x3", "prior-comparison")
    )
    given = overlay["experiments"]["few_shot"]["methods"]
    methods = [name for name, method in given.items() if method is not None]
    for below in (DEFAULT, merged(DEFAULT, mnist), merged(DEFAULT, small)):
        made = Plan(read(merged(below, overlay)))
        assert list(made.config.experiments) == ["few_shot"]
        few_shot = made.config.experiments["few_shot"]
        assert list(few_shot.methods) == methods
        assert dump(few_shot.network) == dump(read(below).experiments["few_shot"].network)
        assert made.config.data == read(below).data
        uses = made.report.params["uses"]
        assert list(uses) == methods
        found = {(prior, use) for prior, use, _ in uses.values()}
        facts = {name: made.config.priors[name].facts for name, _ in found}
        expected = {(name, "initialisation, frozen") for name in facts}
        # A VAE's bound is no target for a sampler, but its codes are.
        sampled = [
            name
            for name, one in facts.items()
            if one.has_density and (one.exact or issubclass(one, VAESettings))
        ]
        assert found == expected | {(name, "prior, hmc") for name in sampled}
        kinds = {kind for kind in known() if find(kind).has_density or find(kind).has_samples}
        assert {one.kind for one in facts.values()} == kinds


def test_validation_does_not_change_the_configuration():
    config = copy.deepcopy(BASE)
    Plan(read(config))
    assert config == BASE


def test_null_removes_entries():
    few_shot = {"methods": {"dwp": None, "l2_dwp": None}}
    rest = {name: None for name in BASE["experiments"] if name != "few_shot"}
    priors = dict.fromkeys(("vae", "filters", "gaussian", "molchanov"))
    made = plan({"priors": priors, "experiments": {"few_shot": few_shot, **rest}})
    assert set(made.config.priors) == {"standard_normal", "log_uniform"}
    assert {experiment for experiment, _ in made.methods} == {"few_shot"}
    assert {method for _, method in made.methods} == {"log_uniform", "standard_normal", "l2_xavier"}
    assert made.priors == {}
