"""The CIFAR protocol: its plan, and a scaled-down run on synthetic images."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, snakemake
from network_samples import described
from torch import nn

from dwp import data
from dwp.nn.convnet import build

PROTOCOL = yaml.safe_load((ROOT / "config" / "paper-cifar.yaml").read_text())
LAYERS = """
      - {conv: 2, kernel: 7, pool: 2}
      - {conv: 3, kernel: 5}
      - {conv: 3, kernel: 5}
      - {linear: 6}
"""
FEW = "{steps: 4, epochs: null, batch: 10}"
METHODS = yaml.safe_load((ROOT / "config.yaml").read_text())["experiments"]["few_shot"]["methods"]
FEW_SHOT = dict.fromkeys(METHODS.keys() - {"dwp", "l2_xavier"})
# Smaller sizes, and one or two methods per experiment; the rest is unchanged.
SMALL = f"""
data_root: data
data: {{source: noise100, target: noise10}}
source:
  nets: 12
  shard: 12
  network: &network
    layers: {LAYERS}
  schedule: {FEW}
priors:
  gaussian: null
  mixture: null
  noise: null
  vae:
    sizes: {{7x7: {{hidden: 4, schedule: {{steps: 4}}}}, 5x5: {{hidden: 4}}}}
    schedule: {FEW}
experiments:
  few_shot:
    examples: [20]
    seeds: 1
    network: *network
    schedule: {{steps: 4}}
    every: 2
    methods: {json.dumps(FEW_SHOT)}
  convergence:
    seeds: 1
    network: *network
    schedule: {{steps: 4, batch: 10}}
    every: 2
    methods: {{filters: null, xavier: null}}
  random_features:
    width: [1]
    seeds: 1
    network: *network
    schedule: {FEW}
    every: 2
    methods: {{xavier: null, dwp: null}}
  kl_importance: null
  kl_subset: null
  kl_profile:
    scale: [0, 1]
    seeds: 1
    network:
      layers: [{{conv: 4, kernel: 7}}, {{conv: 1, kernel: 5}}]
    methods: {{log_uniform: null, molchanov: null, standard_normal: null, gaussian: null}}
"""


@pytest.mark.parametrize(
    ("place", "batch_norm"),
    [("few_shot", False), ("convergence", False), ("random_features", True), ("source", False)],
)
def test_the_network_is_the_published_one(place, batch_norm):
    network = (PROTOCOL["source"] if place == "source" else PROTOCOL["experiments"][place])["network"]
    with torch.device("meta"):
        model = build(described(**network), data.image_shape("cifar10"), 10)
        values, sizes = torch.empty(2, 3, 32, 32), []
        for module in model:
            values = module(values)
            if isinstance(module, nn.Conv2d | nn.MaxPool2d):
                sizes.append(values.shape[-1])
    assert sizes == [26, 13, 9, 5]
    shapes = [tuple(parameter.shape) for parameter in model.parameters() if parameter.ndim > 1]
    assert shapes == [(128, 3, 7, 7), (256, 128, 5, 5), (256, 256, 5, 5), (512, 6400), (10, 512)]
    assert any(isinstance(module, nn.BatchNorm2d) for module in model) == batch_norm


def write_images(folder, classes, train, test):
    """Write noise for a data set: four arrays, all classes among the training images."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(classes)
    for split, count in (("train", train), ("test", test)):
        images = generator.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", np.arange(count) % classes)


def test_a_scaled_down_run_goes_to_the_end(tmp_path):
    write_images(tmp_path / "data" / "noise100", 100, 100, 12)
    write_images(tmp_path / "data" / "noise10", 10, 40, 12)
    overlay = tmp_path / "small.yaml"
    overlay.write_text(SMALL)
    done = snakemake(tmp_path, str(overlay), config="paper-cifar")
    assert done.returncode == 0, done.stdout[-5000:]
    latest = tmp_path / "results" / "latest"
    assert {path.name for path in latest.iterdir()} >= {"few_shot", "convergence", "random_features"}
    assert not (latest / "image_vae").exists()
    assert {path.name for path in (latest / "few_shot").iterdir()} == {"dwp", "l2_xavier"}
    for path in (tmp_path / "results").glob("*/*/*_seeds-*.csv"):
        rows = pd.read_csv(path)
        assert rows["step"].max() == (0 if "kl_profile" in set(rows["experiment"]) else 4), path
        assert np.isfinite(rows["value"]).all(), path
    # One store, and so one prior, of the kernels of both layers.
    (store,) = (latest / "kernels" / "5x5").glob("*.h5")
    with h5py.File(store, "r") as file:
        assert list(file.attrs["layers"]) == ["conv2", "conv3"]
        assert file.attrs["rule"] == "otsu"
        assert file.attrs["before"] == 12 * (2 * 3 + 3 * 3)
    assert (latest / "report" / "figures" / "few_shot.png").exists()
    # The arrays are not CIFAR, so the paper's numbers are not shown.
    pages = list((latest / "report" / "pages").glob("*.html"))
    assert {"few_shot", "random_features"} <= {page.stem for page in pages}
    assert not any("in brackets the paper’s" in page.read_text() for page in pages)
