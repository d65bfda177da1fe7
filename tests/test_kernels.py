"""Kernels: thresholds, the store, refusals."""

import time
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_samples import assert_same_stores, net, read_store, write_nets
from safetensors.torch import save_file

from dwp import kernel_files, kernels
from dwp.errors import InputError

# Thresholds


def bimodal(seed, n=20_000, low=-0.7, high=-0.1, width=0.06, share=0.5):
    generator = np.random.default_rng(seed)
    small = generator.random(n) < share
    return 10 ** np.where(small, generator.normal(low, width, n), generator.normal(high, width, n))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("width", [0.06, 0.15])
def test_otsu_against_brute_force(share, width):
    values = bimodal(0, width=width, share=share)
    _, edges = kernels.log_histogram(values)
    logs = np.log10(np.maximum(values, 10 ** edges[0]))

    def between(edge):
        below, above = logs[logs < edge], logs[logs >= edge]
        return len(below) * len(above) * (below.mean() - above.mean()) ** 2

    best = max(edges[1:-1], key=between)
    chosen = np.log10(kernels.choose_threshold(values, "otsu"))
    assert between(chosen) == pytest.approx(between(best), rel=2e-3)


def test_otsu_takes_the_middle_of_a_gap():
    values = np.concatenate([np.full(900, 0.2), np.full(100, 0.8)])
    assert kernels.choose_threshold(values, "otsu") == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_valley_lies_between_two_modes(share):
    chosen = kernels.choose_threshold(bimodal(1, share=share), "valley")
    assert -0.7 + 3 * 0.06 < np.log10(chosen) < -0.1 - 3 * 0.06


def test_valley_refuses_a_single_mode():
    values = 10 ** np.random.default_rng(0).normal(-0.5, 0.1, 20_000)
    with pytest.raises(InputError, match=r"single mode.*give a number"):
        kernels.choose_threshold(values, "valley")


@pytest.mark.parametrize("rule", kernels.RULES)
@pytest.mark.parametrize("scale", [0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.7, 1.9, 2.3, 2.9, 100.0])
def test_thresholds_scale_with_the_norms_and_ignore_the_depth_of_the_tail(rule, scale):
    values = bimodal(2)
    chosen, small = kernels.choose_threshold(values, rule), values < 0.4
    tails = [np.where(small, values * 10.0**-depth, values) for depth in (2, 12)]
    deep = kernels.choose_threshold(tails[0], rule)
    # Within a bin of the histogram, 0.01 decades.
    assert kernels.choose_threshold(scale * values, rule) == pytest.approx(scale * chosen, rel=0.03)
    assert kernels.choose_threshold(scale * tails[0], rule) == pytest.approx(scale * deep, rel=0.03)
    assert kernels.choose_threshold(scale * tails[1], rule) == pytest.approx(scale * deep, rel=0.03)
    assert deep < 0.5


@pytest.mark.parametrize("rule", [0, 0.25, 3])
def test_a_number_is_taken_as_it_is(rule):
    assert kernels.choose_threshold(bimodal(0), rule) == rule


def test_threshold_refusals():
    with pytest.raises(InputError, match="'median' is not known; use a number or one of otsu, valley"):
        kernels.choose_threshold(bimodal(0), "median")
    for rule in kernels.RULES:
        with pytest.raises(InputError, match="every kernel is zero"):
            kernels.choose_threshold(np.zeros(5), rule)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=50))
def test_the_histogram_counts_every_norm(values):
    counts, edges = kernels.log_histogram(np.array(values))
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1
    assert edges[-1] == pytest.approx(np.log10(max(values)))


def test_norms():
    values = np.random.default_rng(0).normal(size=(9, 1, 3, 3)).astype(np.float32)
    expected = [np.linalg.norm(kernel) for kernel in values.astype(np.float64)]
    np.testing.assert_allclose(kernels.norms(values), expected, rtol=1e-6)
    assert kernels.norms(np.full((1, 1, 2, 2), 1e30, np.float32))[0] == pytest.approx(2e30)


# The store


@pytest.fixture
def collected(tmp_path):
    files = [
        write_nets(tmp_path / f"nets-{first}.safetensors", range(first, first + 3)) for first in (0, 3, 6)
    ]
    counts = kernels.collect(files, 3, tmp_path / "kernels.h5", threshold=2.5, test_fraction=0.3, seed=1)
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
        loaded = kernels.load(path, split)
        assert (tuple(loaded.shape), loaded.dtype) == ((size, 1, 3, 3), torch.float32)


@pytest.mark.parametrize("nets", [9, 12])
def test_the_shards_that_nets_come_in_do_not_matter(tmp_path, nets):
    stores = []
    for size in (nets, 4, 1):
        files = [
            write_nets(tmp_path / f"{size}-{first:03d}.safetensors", range(first, min(first + size, nets)))
            for first in range(0, nets, size)
        ]
        stores.append(tmp_path / f"{size}.h5")
        kernels.collect(files, 3, stores[-1], threshold=2.0, test_fraction=0.3)
    assert_same_stores(stores[0], stores[1])
    assert_same_stores(stores[0], stores[2])


def test_more_nets_leave_the_split_of_the_others_alone(tmp_path):
    origins = []
    for nets in (3, 5):
        file = write_nets(tmp_path / "nets.safetensors", range(nets))
        kernels.collect([file], 3, tmp_path / "k.h5", threshold=2.0, test_fraction=0.3)
        store = read_store(tmp_path / "k.h5")
        rows = zip(*(store[f"test/{name}"] for name in ("net", "layer", "out", "in")), strict=True)
        origins.append({tuple(row) for row in rows if row[0] < 3})
    assert origins[0] == origins[1]


def test_the_threshold_does_not_change_who_is_tested(tmp_path):
    file, tested = write_nets(tmp_path / "nets.safetensors", range(4)), []
    for threshold in (1.0, 3.0):
        kernels.collect([file], 3, tmp_path / "k.h5", threshold=threshold, test_fraction=0.3)
        tested.append({kernel.tobytes() for kernel in read_store(tmp_path / "k.h5")["test/kernels"]})
    assert tested[1] < tested[0]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_the_fraction_for_testing(tmp_path, fraction):
    np.save(tmp_path / "k.npy", np.random.default_rng(0).normal(size=(5000, 3, 3)).astype(np.float32))
    counts = kernels.collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=0, test_fraction=fraction)
    error = np.sqrt(fraction * (1 - fraction) / 5000)
    assert counts["test"] / 5000 == pytest.approx(fraction, abs=4 * error)
    kernels.collect([tmp_path / "k.npy"], 3, tmp_path / "2.h5", threshold=0, test_fraction=fraction, seed=1)
    first, other = (set(read_store(tmp_path / name)["test/out"].tolist()) for name in ("k.h5", "2.h5"))
    assert first != other


def test_the_same_kernels_give_the_same_bytes(tmp_path):
    file = write_nets(tmp_path / "nets.safetensors", range(3))
    for name in ("a", "b"):
        kernels.collect([file], 3, tmp_path / name, threshold="otsu", test_fraction=0.3)
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
        kernels.collect([file], size, tmp_path / "k.h5", threshold=threshold, test_fraction=fraction)
    assert list(tmp_path.iterdir()) == [file]


def test_layers_without_kernels_count_for_nothing(tmp_path):
    save_file({"conv.weight": torch.zeros(0, 1, 3, 3)}, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="there is no 3×3 kernel"):
        kernels.collect([tmp_path / "net.safetensors"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3)


def test_kernels_whose_norm_no_number_holds_are_refused(tmp_path):
    w = np.ones((40, 3, 3), dtype=np.float32)
    w[17] = 3e38
    np.save(tmp_path / "k.npy", w)
    with pytest.raises(InputError, match=r"net 0, k: kernel 17 has numbers up to 3e\+38"):
        kernels.collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]


def test_memory_does_not_grow_with_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_files, "CHUNK", 1000)
    monkeypatch.setattr(kernels, "NORMS", 1000)
    generator, peaks = np.random.default_rng(0), []
    for count in (5_000, 5_000, 80_000):  # the first pays for imports and caches
        np.save(tmp_path / "k.npy", generator.normal(size=(count, 3, 3)).astype(np.float32))
        tracemalloc.start()
        kernels.collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=4.5, test_fraction=0.3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Norms of 75,000 more kernels alone would be 300 kB.
    assert peaks[2] - peaks[1] < 150_000
