"""The stage that scores the priors of one kernel size: both tables, and times from the fits' manifests."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from prior_helpers import seeded
from prior_kinds import FITTED
from safetensors.torch import save_file

from dwp.kernels import store
from dwp.pipeline import paths
from dwp.pipeline.manifest import version_of, write_manifest
from dwp.pipeline.stages import scores as stage
from dwp.priors import scores
from dwp.priors.base import find, save_prior

ANALYTIC = {
    "normal": {"kind": "standard_normal", "scale": 0.5},
    "structured": {"kind": "structured_gaussian"},
    "gabor": {"kind": "gabor"},
    "ard": {"kind": "ard"},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a kernel store and files of fitted priors, with manifests of 2.5 seconds."""
    folder = tmp_path_factory.mktemp("scores")
    save_file({"conv.weight": torch.randn(40, 5, 5, 5, generator=seeded())}, folder / "net.safetensors")
    kernels = folder / "kernels.h5"
    store.collect([folder / "net.safetensors"], 5, kernels, threshold=0.0, test_fraction=0.2)
    train, test = store.load(kernels, "train"), store.load(kernels, "test")
    priors = []
    for name in ("vae", "gaussian_mixture", "flow_matching", "empirical"):
        kind, settings = FITTED[name]
        prior, _ = find(kind).fit(train, test, settings, seed=0)
        version = version_of("priors", {"kind": kind}, {})
        path = folder / paths.PRIOR.file("safetensors", version=paths.short(version), name=kind, size=5)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_prior(prior, path)
        spec = {"stage": "priors", "version": version, "params": {"kind": kind}, "inputs": {}}
        spec["code"] = "0" * 32
        write_manifest(paths.manifest(path), spec, [path], seconds=2.5, read={})
        priors.append(str(path))
    return {"kernels": str(kernels), "priors": priors}


def tables(inputs, folder, measure_time):
    outputs = {"scores": str(folder / "scores.csv"), "samples": str(folder / "samples.csv")}
    params = {"kernels": 40, "samples": [1, 3], "measure_time": measure_time, "priors": ANALYTIC}
    given = type("Input", (dict,), {"__getattr__": dict.__getitem__})(inputs)
    job = SimpleNamespace(
        params=params,
        wildcards=SimpleNamespace(size="5"),
        input=given,
        spec={
            "inputs": {
                f"{paths.PRIOR.fields(file)['name']}-5": paths.label(file) for file in inputs["priors"]
            }
        },
        output=SimpleNamespace(**outputs),
    )
    stage.main(job)
    return pd.read_csv(outputs["scores"]), pd.read_csv(outputs["samples"])


def test_every_prior_with_a_density_or_samples_is_scored(inputs, tmp_path):
    dense, sampled = tables(inputs, tmp_path, False)
    assert tuple(dense) == scores.COLUMNS
    names = ["vae", "vae", "gaussian_mixture", "flow_matching", "normal", "structured"]
    assert dense["prior"].tolist() == names
    assert np.isfinite(dense[["mean", "standard_error"]]).all(axis=None)
    assert tuple(sampled) == scores.SAMPLES
    draws = list(zip(sampled["prior"].fillna(""), sampled["draw"], strict=True))
    others = ["gaussian_mixture", "flow_matching", "empirical", "normal", "structured", "gabor"]
    expected = [("", "held_out"), ("vae", "sample"), ("vae", "mean"), *((name, "sample") for name in others)]
    assert draws == expected
    measured = ["nearest", "energy", "p_value", "rms_norm", "low_frequencies"]
    assert np.isfinite(sampled[measured]).all(axis=None)
    learned = sampled[sampled["prior"] == "empirical"].iloc[0]
    assert learned["nearest"] == 0 < sampled["nearest"][0]
    assert sampled[["fit_seconds", "sample_seconds"]].isna().all(axis=None)
    first = (tmp_path / "samples.csv").read_bytes()
    tables(inputs, tmp_path, False)
    assert (tmp_path / "samples.csv").read_bytes() == first


def test_times_are_those_of_the_manifests(inputs, tmp_path):
    _, sampled = tables(inputs, tmp_path, True)
    fitted = sampled["prior"].isin(["vae", "gaussian_mixture", "flow_matching", "empirical"])
    assert (sampled.loc[fitted, "fit_seconds"] == 2.5).all()
    assert sampled.loc[~fitted, "fit_seconds"].isna().all()
    assert (sampled.loc[sampled["draw"] == "sample", "sample_seconds"] > 0).all()
