"""Source networks: training one does not depend on those trained before it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from network_samples import described
from safetensors.torch import save_file

from dwp import metrics
from dwp.bayes.layers import predict
from dwp.data import Dataset
from dwp.experiments.source_nets import NEXT_SEED, SourceSettings, train, train_net
from dwp.initialisation import build_initialised
from dwp.kernels import readers
from dwp.nn.convnet import build, squared_norm
from dwp.training.checkpoints import Checkpoint
from dwp.training.schedule import Schedule

CPU = torch.device("cpu")
NETWORK = described(
    [{"conv": 3, "kernel": 7, "pool": 2}, {"conv": 4, "kernel": 5, "pool": 2}], batch_norm=True
)
SETTINGS = SourceSettings(
    nets=3,
    shard=3,
    network=NETWORK,
    l2=0.01,
    schedule=Schedule(steps=6, batch=16, lr=0.01, precision="float32"),
)


@pytest.fixture(scope="module")
def dataset():
    """Images whose brightest quarter determines the class."""
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


def train_all(nets, dataset, checkpoint=None):
    """Train nets, one after another; return weights and row of each by number."""
    return {net: train_net(net, dataset, SETTINGS, CPU, checkpoint) for net in nets}


@pytest.fixture(scope="module")
def trained(dataset):
    """Three nets."""
    return train_all(range(3), dataset)


def assert_same_nets(found, expected):
    assert found.keys() == expected.keys()
    for net, (weights, row) in found.items():
        assert weights.keys() == expected[net][0].keys()
        assert all(torch.equal(weights[name], expected[net][0][name]) for name in weights)
        assert without_seconds(row) == without_seconds(expected[net][1])


def without_seconds(row):
    return {key: value for key, value in row.items() if key != "seconds"}


@pytest.mark.parametrize("nets", [[1], [2, 0], [1, 5]])
def test_a_net_does_not_depend_on_those_trained_before(dataset, trained, nets):
    torch.manual_seed(sum(nets))
    found = train_all(nets, dataset)
    shared = [net for net in nets if net < 3]
    assert_same_nets({net: found[net] for net in shared}, {net: trained[net] for net in shared})


def test_seeds_give_different_nets(trained):
    assert not torch.equal(trained[0][0]["conv1.weight"], trained[1][0]["conv1.weight"])


def test_what_a_net_yields(dataset, trained):
    images, labels = dataset.images("test"), dataset.labels("test")
    for net, (weights, row) in trained.items():
        assert set(row) == {"seed", "accuracy", "nll", "seconds"}
        assert row["seed"] == net
        model = build(NETWORK, dataset.image_shape, dataset.classes)
        model.load_state_dict(weights)
        probabilities = predict(model, images, 0)[0]
        assert row["accuracy"] == metrics.accuracy(probabilities, labels)
        assert row["nll"] == pytest.approx(metrics.nll(probabilities, labels), rel=1e-4)
        assert row["seconds"] > 0
        assert all(tensor.is_contiguous() for tensor in weights.values())


def test_kernels_of_a_file_of_nets_are_collected_by_net(tmp_path, trained):
    tensors = {f"{net}/{name}": w for net, (weights, _) in trained.items() for name, w in weights.items()}
    save_file(tensors, tmp_path / "nets.safetensors")
    batches = list(readers.read(tmp_path / "nets.safetensors", 5))
    assert [(batch.net, batch.layer, len(batch.kernels)) for batch in batches] == [
        (net, "conv2", 12) for net in range(3)
    ]


def test_nets_learn_and_the_penalty_shrinks_their_kernels(dataset):
    longer = replace(SETTINGS, schedule=replace(SETTINGS.schedule, steps=60))
    norms = []
    for l2 in (0.0, 0.1):
        state, row = train(0, dataset, replace(longer, l2=l2), CPU)
        assert row["accuracy"] > 0.9
        model = build(NETWORK, dataset.image_shape, dataset.classes)
        model.load_state_dict(state)
        norms.append(squared_norm(model).item())
    assert norms[1] < 0.5 * norms[0]


def diverging(monkeypatch, seeds):
    """Make the nets of these seeds diverge at the third step."""

    def initialised(network, shape, classes, seed):
        model = build_initialised(network, shape, classes, seed)
        steps = itertools.count()
        if seed in seeds:
            model.register_forward_hook(
                lambda module, _, out: out * (math.nan if next(steps) == 2 and module.training else 1)
            )
        return model

    monkeypatch.setattr("dwp.initialisation.build_initialised", initialised)


def test_a_net_that_diverges_is_trained_from_the_next_seed(tmp_path, dataset, trained, monkeypatch, caplog):
    checkpoint = Checkpoint(tmp_path / "nets.pt", "nets", seconds=0)
    with monkeypatch.context() as patch:
        diverging(patch, {1, 1 + NEXT_SEED})
        found = train_all(range(3), dataset, checkpoint)
        with pytest.raises(FloatingPointError, match="source net 1: train_nll is nan at step 2 with seed 1;"):
            train(1, dataset, SETTINGS, CPU)
    assert caplog.text.count("net 1 diverged: source net") == 2
    seed = 1 + 2 * NEXT_SEED
    state, row = train(seed, dataset, SETTINGS, CPU)
    assert_same_nets(found, trained | {1: (state, {"seed": seed, **row})})
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_always_diverges_is_given_up(dataset, monkeypatch):
    diverging(monkeypatch, {1, 1 + NEXT_SEED, 1 + 2 * NEXT_SEED})
    with pytest.raises(FloatingPointError, match=r"1 diverged from 3 seeds, the last time: .*seed 2000001"):
        train_net(1, dataset, SETTINGS, CPU)


def test_training_of_several_may_be_interrupted(tmp_path, dataset, trained, monkeypatch):
    checkpoint, saves = Checkpoint(tmp_path / "nets.pt", "nets", seconds=0), []

    def interrupt(self, state, save=Checkpoint.save):
        save(self, state)
        saves.append(state["step"])
        if len(saves) == 9:  # six saves of net 0, three of net 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_all(range(3), dataset, checkpoint)
    assert checkpoint.of(1).load()["step"] == 3
    assert_same_nets(train_all(range(3), dataset, checkpoint), trained)
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
