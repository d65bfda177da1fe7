"""User data sets (folders with four arrays) as source and target of the workflow."""

import json

import numpy as np
import pandas as pd
import pytest
from configurations import DEFAULT, network, plan
from conftest import snakemake
from forks import forked_snakemake
from test_data_files import write, write_arrays

from dwp.data import load
from dwp.errors import InputError


def own(root, **data):
    """Return an overlay with these data sets, no outliers and few examples."""
    small = {"examples": [6], "outliers": False}
    return {"data_root": str(root), "data": data, "experiments": {"few_shot": small}}


def test_a_set_of_ones_own_may_be_source_and_target(tmp_path):
    write_arrays(tmp_path / "letters", (1, 28, 28), classes=3)
    write_arrays(tmp_path / "numbers-2", (3, 32, 32), classes=12)
    made = plan(own(tmp_path, source="letters", target="numbers-2"))
    assert made.dataset_file("numbers-2").endswith("/numbers-2.safetensors")
    assert made.datasets == ["numbers-2", "letters"]
    assert made.dataset("letters").params["files"].keys() == made.dataset("numbers-2").params["files"].keys()
    assert plan(own(tmp_path, source="letters", target="digits")).datasets == ["digits", "letters"]
    assert plan(own(tmp_path, source="glyphs", target="letters")).datasets == ["letters", "glyphs"]


def test_a_set_of_ones_own_counts_by_name_and_content_and_not_by_place(tmp_path):
    for folder in ("a/mine", "b/mine", "b/other"):
        write_arrays(tmp_path / folder, (1, 28, 28))
    one, same, other = (
        plan(own(tmp_path / root, source="glyphs", target=name)).dataset(name).version
        for root, name in (("a", "mine"), ("b", "mine"), ("b", "other"))
    )
    assert one == same != other


PRETRAINED = {"posterior": "none", "init": {"from": "pretrained"}}


@pytest.mark.parametrize(
    ("few_shot", "message"),
    [
        (
            {"network": network({"conv": 4, "kernel": 7}, {"conv": 4, "kernel": 5})},
            r"few_shot.network.layers\[1\]: kernel 5 does not fit the 3×3 image .*\(images of mine\)",
        ),
        ({"outliers": True}, r"true needs images of one shape; glyphs has \(1, 28, 28\), mine \(3, 9, 9\)"),
        ({"methods": {"new": PRETRAINED}}, "'pretrained' needs images of one shape; glyphs has"),
        ({"examples": [6, 13]}, "13 is more than the 12 training images of mine"),
    ],
    ids=["network", "outliers", "pretrained", "examples"],
)
def test_what_does_not_go_with_the_shape_of_the_arrays_is_refused(tmp_path, few_shot, message):
    write_arrays(tmp_path / "mine", (3, 9, 9))
    one = network({"conv": 4, "kernel": 7})
    others = {name: {"network": one} for name in ("convergence", "random_features", "image_vae")}
    overlay = own(tmp_path, source="glyphs", target="mine")
    overlay["source"] = {"network": one, "nets": 5}
    overlay["experiments"] |= others | dict.fromkeys(("kl_importance", "kl_subset", "kl_profile"))
    overlay["experiments"]["few_shot"] |= {"network": one} | few_shot
    if "network" in few_shot:
        overlay["source"]["network"] = network({"conv": 4, "kernel": 7}, {"conv": 4, "kernel": 5})
    with pytest.raises(InputError, match=message) as error:
        plan(overlay)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "make"), [("mnist", write_arrays), ("digits", write), ("mine", None)])
def test_a_folder_that_is_no_such_set_is_refused_before_anything_runs(tmp_path, name, make):
    (tmp_path / "root").mkdir()
    if make:
        make(tmp_path / "root" / name)
    done = forked_snakemake(tmp_path, "--config", "data_root=root", f"data={{target: {name}}}")
    assert done.returncode != 0
    assert "config: data.target: " in done.stdout
    assert f"root/{name if make else '<name>'}" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()


# Of the methods, one that needs no prior.
METHODS = dict.fromkeys(DEFAULT["experiments"]["few_shot"]["methods"]) | {"l2_xavier": {"space": None}}
CONFIG = f"""
data_root: root
data: {{source: shapes, target: strokes}}
source: {{nets: 2, shard: 2, schedule: {{steps: 4}}}}
priors: {{vae: null, gaussian: null}}
experiments:
  few_shot:
    examples: [9]
    seeds: 1
    tuning: null
    methods: {json.dumps(METHODS)}
  convergence: null
  random_features: null
  image_vae: null
  kl_importance: null
  kl_subset: null
  kl_profile: null
"""


def test_the_workflow_runs_on_sets_of_ones_own(tmp_path):
    write_arrays(tmp_path / "root" / "shapes", (1, 20, 20), classes=12)
    arrays = write_arrays(tmp_path / "root" / "strokes", (1, 20, 20), classes=3)
    (tmp_path / "own.yaml").write_text(CONFIG)
    planned = forked_snakemake(tmp_path, str(tmp_path / "own.yaml"), "-n")
    assert planned.returncode == 0, planned.stdout[-5000:]
    for file in ("shapes.safetensors", "strokes.safetensors", "nets-000-001.safetensors", "few_shot.png"):
        assert file in planned.stdout
    done = snakemake(tmp_path, str(tmp_path / "own.yaml"), "--until", "experiment")
    assert done.returncode == 0, done.stdout[-5000:]
    built = load(tmp_path / "results" / "latest" / "data" / "strokes" / "strokes.safetensors")
    assert built.train_images.numpy().tolist() == arrays["train_images"].tolist()
    assert built.classes == 3
    (cell,) = (tmp_path / "results" / "latest" / "few_shot" / "l2_xavier").glob("*.csv")
    rows = pd.read_csv(cell)
    assert np.isfinite(rows["value"]).all()
    assert {"accuracy", "auroc_entropy"} <= set(rows["metric"])
