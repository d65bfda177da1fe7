"""Kernel files: every format gives the same kernels, damaged files are refused."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from kernel_samples import assert_same_stores, net, read_store, write_onnx
from safetensors.torch import save_file

from dwp.errors import InputError
from dwp.kernels import readers
from dwp.kernels import store as kernel_store
from dwp.kernels.files import SUFFIXES as SUFFIXES_OF_FILES


def write(path, array):
    """Write kernels [n, 1, k, k] in the format of the file's suffix."""
    tensor = torch.from_numpy(array)
    if path.suffix == ".onnx":
        return write_onnx(path, {"layer.weight": array}, [("Conv", "layer.weight")])
    if path.suffix == ".safetensors":
        save_file({"layer.weight": tensor, "layer.bias": torch.zeros(3)}, path)
    elif path.suffix == ".pt":
        torch.save({"layer.weight": tensor, "layer.bias": torch.zeros(3)}, path)
    elif path.suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": {"layer.weight": tensor}}, path)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        with h5py.File(path, "w") as file:
            file["kernels" if path.suffix == ".h5" else "anything"] = array
    return path


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).normal(size=(60, 1, 5, 5)).astype(np.float32)


@pytest.mark.parametrize("suffix", list(readers.READERS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_every_format_gives_the_same_kernels(tmp_path, array, suffix, dtype):
    array = array.astype(dtype)
    (batch,) = readers.read(write(tmp_path / f"k{suffix}", array), 5, net=3)
    assert (batch.net, batch.first, batch.kernels.dtype) == (3, 0, np.float32)
    np.testing.assert_array_equal(batch.kernels, array.astype(np.float32))
    for name in (f"k{suffix}", "reference.npy"):
        write(tmp_path / name, array)
        kernel_store.collect([tmp_path / name], 5, tmp_path / f"{name}.h5", threshold=4.5, test_fraction=0.3)
    assert_same_stores(tmp_path / f"k{suffix}.h5", tmp_path / "reference.npy.h5")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bfloat16_weights_are_read(tmp_path, suffix):
    weight = torch.randn(4, 2, 3, 3).bfloat16()
    path = tmp_path / f"net{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"conv.weight": weight}, path)
    (batch,) = readers.read(path, 3)
    assert np.array_equal(batch.kernels, weight.float().view(8, 1, 3, 3).numpy())


def test_the_suffixes_are_those_of_the_readers():
    assert tuple(readers.READERS) == SUFFIXES_OF_FILES


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_arrays_without_the_channel_axis_and_in_chunks(tmp_path, array, suffix, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 7)
    path = write(tmp_path / f"k{suffix}", array[:, 0])
    batches = list(readers.read(path, 5))
    assert [batch.first for batch in batches] == list(range(0, 60, 7))
    np.testing.assert_array_equal(np.concatenate([batch.kernels for batch in batches]), array)
    kernel_store.collect([path], 5, tmp_path / "store", threshold=0, test_fraction=0.3)
    store = read_store(tmp_path / "store")
    rows = np.concatenate([store["train/out"], store["test/out"]])
    assert sorted(rows.tolist()) == list(range(60))
    np.testing.assert_array_equal(array[store["test/out"]], store["test/kernels"])


def test_nets_without_a_number_are_counted_by_file(tmp_path):
    files = [tmp_path / f"{name}.pt" for name in "abc"]
    for seed, file in enumerate(files):
        torch.save(net(seed), file)
    kernel_store.collect(files, 7, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    store = read_store(tmp_path / "k.h5")
    weights = [net(seed)["features.conv1.weight"] for seed in range(3)]
    for number, out, kernel in zip(
        store["train/net"], store["train/out"], store["train/kernels"], strict=True
    ):
        assert np.array_equal(weights[number][out].numpy(), kernel)


# Refusals


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        import os

        return os.mkdir, (self.marker,)


def damaged(path, kind, array):
    """Write a file with one kind of damage."""
    if kind == "nan":
        array = array.copy()
        array[17, 0, 2, 2] = np.nan
    elif kind == "inf":
        array = array.copy()
        array[17, 0, 2, 2] = -np.inf
    elif kind == "shape":
        array = array.reshape(-1, 1, 1, 25)
    elif kind == "dtype":
        array = (100 * array).astype(np.int32)
    write(path, array)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are no kernels\n" * 100)


SUFFIXES = [".safetensors", ".pt", ".npy", ".h5", ".onnx"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["nan", "inf", "shape", "dtype", "truncated", "empty", "text"])
def test_damage_is_refused_and_the_file_named(tmp_path, array, suffix, kind):
    path, output = tmp_path / f"bad{suffix}", tmp_path / "out" / "k.h5"
    output.parent.mkdir()
    output.write_bytes(b"an earlier result")
    damaged(path, kind, array)
    with pytest.raises(InputError, match=f"bad\\{suffix}") as refused:
        kernel_store.collect([path], 5, output, threshold=0, test_fraction=0.3)
    if kind in ("nan", "inf"):
        assert "kernel 17 has numbers that are not finite" in str(refused.value)
    assert output.read_bytes() == b"an earlier result"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_not_executed(tmp_path, how):
    path, marker = tmp_path / "net.pt", tmp_path / "marker"
    state = {"conv.weight": torch.zeros(2, 1, 3, 3), "evil": Evil(marker)}
    if how == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    with pytest.raises(InputError, match=r"net\.pt is not a plain state dict"):
        list(readers.read(path, 3))
    assert not marker.exists()


def test_object_arrays_are_refused(tmp_path):
    marker = tmp_path / "marker"
    objects = np.empty((2, 3, 3), dtype=object)
    objects[0, 0, 0] = Evil(marker)
    np.save(tmp_path / "k.npy", objects, allow_pickle=True)
    with pytest.raises(InputError, match=r"k\.npy cannot be read"):
        list(readers.read(tmp_path / "k.npy", 3))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2, 1, 3, 3)], "not a state dict of tensors"),
        ({"epoch": 3, "best": 0.5}, "not a state dict of tensors"),
        ({}, "not a state dict of tensors"),
    ],
)
def test_checkpoints_of_another_form_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(InputError, match=rf"net\.pt is {message}"):
        list(readers.read(tmp_path / "net.pt", 3))


def test_hdf5_without_kernels_is_refused(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["a"] = file["b"] = np.zeros((2, 3, 3))
    with pytest.raises(InputError, match=r"k\.h5 has datasets \['a', 'b'\]; expected one named 'kernels'"):
        list(readers.read(tmp_path / "k.h5", 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.npy", "there is no file .*none.npy"), ("net.ckpt", "suffix '.ckpt'; use one of .safetensors")],
)
def test_missing_files_and_unknown_formats(name, message):
    with pytest.raises(InputError, match=message):
        list(readers.read(Path("nowhere") / name, 3))
