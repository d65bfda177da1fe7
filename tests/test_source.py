"""Source networks: what a shard holds, and that a net does not depend on it."""

import itertools
import math

import pytest
import torch
from network_samples import described
from safetensors.torch import save_file

from dwp import metrics
from dwp.bayes.layers import predict
from dwp.data import Dataset
from dwp.experiments.source_nets import NEXT_SEED, train, train_shard
from dwp.initialisation import build_initialised
from dwp.kernels import readers
from dwp.nn.convnet import build, squared_norm
from dwp.training.checkpoints import Checkpoint

CPU = torch.device("cpu")
NETWORK = {
    "layers": [{"conv": 3, "kernel": 7, "pool": 2}, {"conv": 4, "kernel": 5, "pool": 2}],
    "batch_norm": True,
}
SETTINGS = {
    "network": NETWORK,
    "l2": 0.01,
    "schedule": {
        "steps": 6,
        "epochs": None,
        "batch": 16,
        "lr": 0.01,
        "decay": "linear",
        "precision": "float32",
    },
}


@pytest.fixture(scope="module")
def dataset():
    """Images whose brightest quarter tells the class."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for n in (60, 20):
        labels = torch.arange(n) % 4
        images = torch.randint(0, 100, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[0, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] += 120
        parts += [images, labels]
    return Dataset("quarters", *parts)


@pytest.fixture(scope="module")
def shard(dataset):
    return train_shard(range(3), dataset, SETTINGS, CPU)


def assert_same_nets(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("seeds", [[1], [2, 0], [1, 5]])
def test_a_net_does_not_depend_on_its_shard(dataset, shard, seeds):
    torch.manual_seed(sum(seeds))
    weights, rows = train_shard(seeds, dataset, SETTINGS, CPU)
    shared = [seed for seed in seeds if seed < 3]
    of_shared = lambda tensors: {  # noqa: E731
        name: tensor for name, tensor in tensors.items() if int(name.split("/")[0]) in shared
    }
    assert_same_nets(of_shared(weights), of_shared(shard[0]))
    by_net = {row["net"]: row for row in without_seconds(shard[1])}
    assert [row for row in without_seconds(rows) if row["net"] < 3] == [by_net[seed] for seed in shared]


def test_seeds_give_different_nets(shard):
    weights, _ = shard
    assert not torch.equal(weights["0/conv1.weight"], weights["1/conv1.weight"])


def test_what_a_shard_holds(dataset, shard):
    weights, rows = shard
    assert [set(row) for row in rows] == [{"net", "seed", "accuracy", "nll", "seconds"}] * 3
    assert [row["net"] for row in rows] == [row["seed"] for row in rows] == [0, 1, 2]
    images, labels = dataset.images("test"), dataset.labels("test")
    for row in rows:
        model = build(described(**NETWORK), dataset.image_shape, dataset.classes)
        prefix = f"{row['net']}/"
        model.load_state_dict(
            {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        )
        probabilities = predict(model, images, 0)[0]
        assert row["accuracy"] == metrics.accuracy(probabilities, labels)
        assert row["nll"] == pytest.approx(metrics.nll(probabilities, labels), rel=1e-4)
        assert row["seconds"] > 0
    assert all(tensor.is_contiguous() for tensor in weights.values())


def test_kernels_of_a_shard_are_collected_by_net(tmp_path, shard):
    save_file(shard[0], tmp_path / "nets.safetensors")
    batches = list(readers.read(tmp_path / "nets.safetensors", 5))
    assert [(batch.net, batch.layer, len(batch.kernels)) for batch in batches] == [
        (net, "conv2", 12) for net in range(3)
    ]


def test_nets_learn_and_the_penalty_shrinks_their_kernels(dataset):
    longer = SETTINGS | {"schedule": SETTINGS["schedule"] | {"steps": 60}}
    norms = []
    for l2 in (0.0, 0.1):
        state, row = train(0, dataset, longer | {"l2": l2}, CPU)
        assert row["accuracy"] > 0.9
        model = build(described(**NETWORK), dataset.image_shape, dataset.classes)
        model.load_state_dict(state)
        norms.append(squared_norm(model).item())
    assert norms[1] < 0.5 * norms[0]


def diverging(monkeypatch, seeds):
    """Let the nets of these seeds lose their numbers at the third step."""

    def initialised(network, shape, classes, seed):
        model = build_initialised(network, shape, classes, seed)
        steps = itertools.count()
        if seed in seeds:
            model.register_forward_hook(
                lambda module, _, out: out * (math.nan if next(steps) == 2 and module.training else 1)
            )
        return model

    monkeypatch.setattr("dwp.experiments.source_nets.build_initialised", initialised)


def test_a_net_that_diverges_is_trained_from_the_next_seed(tmp_path, dataset, shard, monkeypatch, caplog):
    checkpoint = Checkpoint(tmp_path / "nets.pt", "nets", seconds=0)
    with monkeypatch.context() as patch:
        diverging(patch, {1, 1 + NEXT_SEED})
        weights, rows = train_shard(range(3), dataset, SETTINGS, CPU, checkpoint)
        with pytest.raises(FloatingPointError, match="source net 1: train_nll is nan at step 2 with seed 1;"):
            train(1, dataset, SETTINGS, CPU)
    assert [row["seed"] for row in rows] == [0, 1 + 2 * NEXT_SEED, 2]
    assert caplog.text.count("net 1 diverged: source net") == 2
    state, _ = train(1 + 2 * NEXT_SEED, dataset, SETTINGS, CPU)
    expected = {name: tensor for name, tensor in shard[0].items() if not name.startswith("1/")}
    assert_same_nets(weights, expected | {f"1/{name}": tensor for name, tensor in state.items()})
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_always_diverges_stops_the_shard(dataset, monkeypatch):
    diverging(monkeypatch, {1, 1 + NEXT_SEED, 1 + 2 * NEXT_SEED})
    with pytest.raises(FloatingPointError, match=r"1 diverged from 3 seeds, the last time: .*seed 2000001"):
        train_shard([1], dataset, SETTINGS, CPU)


def test_a_shard_may_be_interrupted(tmp_path, dataset, shard, monkeypatch):
    checkpoint, saves = Checkpoint(tmp_path / "nets.pt", "nets", seconds=0), []

    def interrupt(self, state, save=Checkpoint.save):
        save(self, state)
        saves.append(state["step"])
        if len(saves) == 9:  # six saves of net 0, three of net 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_shard([0, 1, 2], dataset, SETTINGS, CPU, checkpoint)
    assert checkpoint.of(1).load()["step"] == 3
    weights, rows = train_shard(range(3), dataset, SETTINGS, CPU, checkpoint)
    assert_same_nets(weights, shard[0])
    assert without_seconds(rows) == without_seconds(shard[1])
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
