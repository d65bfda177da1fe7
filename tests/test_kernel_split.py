"""The split of kernels into train and test depends only on their weights and the seed."""

import h5py
import numpy as np
import pytest
import torch
from kernel_samples import assert_same_stores, read_store, write_nets
from safetensors.torch import save_file

from dwp.kernels.collection import hashes
from dwp.kernels.store import collect


@pytest.mark.parametrize("nets", [9, 12])
def test_the_shards_that_nets_come_in_do_not_matter(tmp_path, nets):
    stores = []
    for size in (nets, 4, 1):
        files = [
            write_nets(tmp_path / f"{size}-{first:03d}.safetensors", range(first, min(first + size, nets)))
            for first in range(0, nets, size)
        ]
        stores.append(tmp_path / f"{size}.h5")
        collect(files, 3, stores[-1], threshold=2.0, test_fraction=0.3)
    assert_same_stores(stores[0], stores[1])
    assert_same_stores(stores[0], stores[2])


def test_more_nets_leave_the_split_of_the_others_alone(tmp_path):
    origins = []
    for nets in (3, 5):
        file = write_nets(tmp_path / "nets.safetensors", range(nets))
        collect([file], 3, tmp_path / "k.h5", threshold=2.0, test_fraction=0.3)
        store = read_store(tmp_path / "k.h5")
        rows = zip(*(store[f"test/{name}"] for name in ("net", "layer", "out", "in")), strict=True)
        origins.append({tuple(row) for row in rows if row[0] < 3})
    assert origins[0] == origins[1]


def test_the_threshold_does_not_change_who_is_tested(tmp_path):
    file, tested = write_nets(tmp_path / "nets.safetensors", range(4)), []
    for threshold in (1.0, 3.0):
        collect([file], 3, tmp_path / "k.h5", threshold=threshold, test_fraction=0.3)
        tested.append({kernel.tobytes() for kernel in read_store(tmp_path / "k.h5")["test/kernels"]})
    assert tested[1] < tested[0]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_the_fraction_for_testing(tmp_path, fraction):
    np.save(tmp_path / "k.npy", np.random.default_rng(0).normal(size=(5000, 3, 3)).astype(np.float32))
    counts = collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=0, test_fraction=fraction)
    error = np.sqrt(fraction * (1 - fraction) / 5000)
    assert counts["test"] / 5000 == pytest.approx(fraction, abs=4 * error)
    collect([tmp_path / "k.npy"], 3, tmp_path / "2.h5", threshold=0, test_fraction=fraction, seed=1)
    first, other = (set(read_store(tmp_path / name)["test/out"].tolist()) for name in ("k.h5", "2.h5"))
    assert first != other


def sides(path):
    """Return the kernels of each split of a store, as bytes."""
    store = read_store(path)
    return [{kernel.tobytes() for kernel in store[f"{split}/kernels"]} for split in ("train", "test")]


def test_equal_kernels_are_on_one_side(tmp_path, caplog):
    w = np.random.default_rng(0).normal(size=(1_000, 3, 3)).astype(np.float32)
    half = torch.from_numpy(w[:, None]).half()
    np.save(tmp_path / "a.npy", half.numpy())
    save_file({"conv.weight": half.reshape(100, 10, 3, 3).float()}, tmp_path / "b.safetensors")
    files = [tmp_path / "a.npy", tmp_path / "b.safetensors"]
    counts = collect(files, 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    train, test = sides(tmp_path / "k.h5")
    assert not train & test
    assert (len(train), len(test)) == (counts["train"] / 2, counts["test"] / 2)
    with h5py.File(tmp_path / "k.h5") as store:
        assert store.attrs["duplicates"] == 1_000
    assert "1000 of the 2000 3×3 kernels that are kept repeat another" in caplog.text
    caplog.clear()
    collect(files[:1], 3, tmp_path / "once.h5", threshold=0, test_fraction=0.3)
    assert sides(tmp_path / "once.h5") == [train, test]
    with h5py.File(tmp_path / "once.h5") as store:
        assert store.attrs["duplicates"] == 0
    assert not caplog.text


def test_the_order_of_files_does_not_matter(tmp_path):
    generator = np.random.default_rng(0)
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(500, 3, 3)).astype(np.float32))
    found = []
    for names in ("abc", "cab"):
        files = [tmp_path / f"{name}.npy" for name in names]
        collect(files, 3, tmp_path / "k.h5", threshold=2.0, test_fraction=0.3)
        found.append(sides(tmp_path / "k.h5"))
    assert found[0] == found[1]
    # Within a split, kernels are in the order of the files.
    assert (np.diff(read_store(tmp_path / "k.h5")["train/net"]) >= 0).all()


def test_kernels_are_hashed_alike_however_they_lie_in_memory():
    w = np.random.default_rng(0).normal(size=(50, 1, 5, 5)).astype(np.float32)
    w[0, 0, 0, 0] = 0.0
    expected = hashes(w, 3)
    negative = w.copy()
    negative[0, 0, 0, 0] = -0.0
    for same in (np.asfortranarray(w), np.repeat(w, 2, axis=0)[::2], negative):
        np.testing.assert_array_equal(hashes(same, 3), expected)
    assert not (hashes(w, 4) == expected).any()
    assert len(hashes(w[:0], 3)) == 0


@pytest.mark.parametrize("kind", ["normal", "half precision", "one bit", "one place"])
def test_hashes_of_kernels_that_hardly_differ_are_uniform_and_independent(kind):
    generator = np.random.default_rng(0)
    w = generator.normal(size=(20_000, 1, 3, 3)).astype(np.float32)
    if kind == "half precision":
        w = w.astype(np.float16).astype(np.float32)
    elif kind == "one bit":
        w = w[:1] * np.where(np.arange(512)[:, None] >> np.arange(9) & 1, -1, 1).reshape(-1, 1, 3, 3)
        w = w.astype(np.float32)
    elif kind == "one place":
        w = np.repeat(w[:1], 20_000, axis=0)
        w[:, 0, 1, 1] = generator.permutation(20_000)
    n, joint = len(w), []
    for seed in range(100):
        lot = hashes(w, seed) >> 32
        tested = lot / 2**32 < 0.2
        joint.append((tested.mean(), (tested[1:] & tested[:-1]).mean()))
    # Over seeds; pairs of neighbours overlap, so their error is at most three times that of n trials.
    for found, expected, wider in zip(np.mean(joint, axis=0), (0.2, 0.04), (1, 3), strict=True):
        error = np.sqrt(expected * (1 - expected) / (n * 100))
        assert found == pytest.approx(expected, abs=4 * wider * error)
    assert len(np.unique(hashes(w, 0))) == len(np.unique(w.reshape(n, -1), axis=0))
