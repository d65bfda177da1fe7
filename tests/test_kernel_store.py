"""The kernel store: its contents and refusals."""

import time
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from kernel_samples import net, write_nets
from safetensors.torch import save_file

from dwp.errors import InputError
from dwp.kernels import pruning, readers
from dwp.kernels.collection import norms
from dwp.kernels.store import collect, load


def test_norms():
    values = np.random.default_rng(0).normal(size=(9, 1, 3, 3)).astype(np.float32)
    expected = [np.linalg.norm(kernel) for kernel in values.astype(np.float64)]
    np.testing.assert_allclose(norms(values), expected, rtol=1e-6)
    assert norms(np.full((1, 1, 2, 2), 1e30, np.float32))[0] == pytest.approx(2e30)


# The store


@pytest.fixture
def collected(tmp_path):
    files = [
        write_nets(tmp_path / f"nets-{first}.safetensors", range(first, first + 3)) for first in (0, 3, 6)
    ]
    counts = collect(files, 3, tmp_path / "kernels.h5", threshold=2.5, test_fraction=0.3, seed=1)
    return tmp_path / "kernels.h5", counts


def test_every_kernel_is_found_again_at_its_origin(collected):
    path, counts = collected
    with h5py.File(path) as store:
        layers = list(store.attrs["layers"])
        found = set()
        for split in ("train", "test"):
            group = {name: data[:] for name, data in store[split].items()}
            for row, kernel in enumerate(group["kernels"]):
                origin = tuple(int(group[name][row]) for name in ("net", "layer", "out", "in"))
                weight = net(origin[0])[f"{layers[origin[1]]}.weight"]
                assert np.array_equal(weight[origin[2], origin[3]].numpy(), kernel[0])
                assert group["norm"][row] == pytest.approx(np.linalg.norm(kernel), rel=1e-6)
                found.add(origin)
    large = sum(
        int((weight.flatten(2).norm(dim=2) >= 2.5).sum())
        for seed in range(9)
        for weight in net(seed).values()
        if weight.shape[2:] == (3, 3)
    )
    assert len(found) == large == counts["after"]


def test_counts_attributes_and_layout(collected):
    path, counts = collected
    total = 9 * (5 * 6 + 4 * 5)
    with h5py.File(path) as store:
        sizes = {split: len(store[split]["kernels"]) for split in ("train", "test")}
        assert counts == {
            "threshold": 2.5,
            "before": total,
            "after": store.attrs["after"],
            **sizes,
        }
        assert sum(sizes.values()) == counts["after"] < total
        assert {name: store.attrs[name] for name in ("kernel_size", "threshold", "rule", "before")} == {
            "kernel_size": 3,
            "threshold": 2.5,
            "rule": "2.5",
            "before": total,
        }
        assert store["histogram/counts"][:].sum() == total
        assert len(store["histogram/log10_edges"]) == len(store["histogram/counts"]) + 1
        for split in ("train", "test"):
            for data in store[split].values():
                assert data.compression == "gzip"
                assert data.chunks is not None
            assert store[split]["kernels"].shape[1:] == (1, 3, 3)
            assert store[split]["kernels"].dtype == np.float32
    for split, size in sizes.items():
        loaded = load(path, split)
        assert (tuple(loaded.shape), loaded.dtype) == ((size, 1, 3, 3), torch.float32)


@pytest.mark.parametrize("spread", [0, 1e-44, 1e-30])
def test_denormal_kernels_are_collected(tmp_path, spread):
    generator = np.random.default_rng(0)
    w = generator.normal(size=(400, 3, 3))
    w[100:] *= spread
    np.save(tmp_path / "k.npy", w.astype(np.float32))
    counts = collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold="otsu", test_fraction=0.3)
    assert counts["after"] == 100


@pytest.mark.parametrize("modes", [1, 2])
@pytest.mark.parametrize("threshold", ["otsu", 0.5])
def test_the_store_says_how_many_modes_norms_have_and_otsu_warns_of_one(tmp_path, caplog, modes, threshold):
    w = np.random.default_rng(0).normal(size=(400, 3, 3))
    w[200:] *= 1e-3 if modes == 2 else 1
    np.save(tmp_path / "k.npy", w)
    collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=threshold, test_fraction=0.3)
    with h5py.File(tmp_path / "k.h5") as store:
        assert store.attrs["modes"] == modes
    warned = "norms of the 400 3×3 kernels have a single mode, which otsu cuts in two" in caplog.text
    assert warned == (modes == 1 and threshold == "otsu")


def test_the_same_kernels_give_the_same_bytes(tmp_path):
    file = write_nets(tmp_path / "nets.safetensors", range(3))
    for name in ("a", "b"):
        collect([file], 3, tmp_path / name, threshold="otsu", test_fraction=0.3)
        time.sleep(1.1)  # HDF5 may write the time in seconds
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Refusals


@pytest.mark.parametrize(
    ("size", "threshold", "fraction", "message"),
    [
        (9, 0, 0.3, "there is no 9×9 kernel in .*nets.safetensors"),
        (3, 1e9, 0.3, r"1e\+09 leaves 0 of 150 3×3 kernels .largest norm .*give a smaller number"),
        (3, "mean", 0.3, "'mean' is not known"),
        (3, 0, 1e-9, "150 kernels of 3×3 split into 150 for training and 0 for testing"),
    ],
)
def test_nothing_to_collect(tmp_path, size, threshold, fraction, message):
    file = write_nets(tmp_path / "nets.safetensors", range(3))
    with pytest.raises(InputError, match=message):
        collect([file], size, tmp_path / "k.h5", threshold=threshold, test_fraction=fraction)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (np.ones((150, 3, 3)), "150 kernels of 3×3 split into .*149 repeat another"),
        (np.ones((1, 3, 3)), "leaves 1 of 1 3×3 kernels"),
        (np.zeros((150, 3, 3)), "every kernel is zero"),
    ],
    ids=["equal", "one", "zero"],
)
@pytest.mark.parametrize("threshold", [0, "otsu"])
def test_kernels_that_cannot_be_split(tmp_path, w, message, threshold):
    np.save(tmp_path / "k.npy", w)
    with pytest.raises(InputError, match=message):
        collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=threshold, test_fraction=0.3)
    assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]


@pytest.mark.parametrize("threshold", [7, 1e30, np.float32(7), float("nan")])
def test_a_threshold_above_all_norms(tmp_path, threshold):
    np.save(tmp_path / "k.npy", np.random.default_rng(0).normal(size=(100, 2, 2)))
    with pytest.raises(InputError, match=r"leaves 0 of 100 2×2 kernels .*give a smaller number"):
        collect([tmp_path / "k.npy"], 2, tmp_path / "k.h5", threshold=threshold, test_fraction=0.3)


def test_layers_without_kernels_count_for_nothing(tmp_path):
    save_file({"conv.weight": torch.zeros(0, 1, 3, 3)}, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="there is no 3×3 kernel"):
        collect([tmp_path / "net.safetensors"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3)


def test_kernels_whose_norm_no_number_holds_are_refused(tmp_path):
    w = np.ones((40, 3, 3), dtype=np.float32)
    w[17] = 3e38
    np.save(tmp_path / "k.npy", w)
    with pytest.raises(InputError, match=r"net 0, k: kernel 17 has numbers up to 3e\+38"):
        collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]


def test_memory_does_not_grow_with_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 1000)
    monkeypatch.setattr(pruning, "NORMS", 1000)
    generator, peaks = np.random.default_rng(0), []
    for count in (5_000, 5_000, 80_000):  # the first fills caches and imports
        np.save(tmp_path / "k.npy", generator.normal(size=(count, 3, 3)).astype(np.float32))
        tracemalloc.start()
        collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=4.5, test_fraction=0.3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Norms of 75,000 more kernels alone would be 300 kB.
    assert peaks[2] - peaks[1] < 150_000
