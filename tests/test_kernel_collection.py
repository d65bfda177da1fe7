"""`dwp.collect`: folders, pruning, random samples, and reading in parts."""

import h5py
import numpy as np
import pytest
import torch
from configurations import plan
from kernel_samples import net, read_store, write_nets, write_onnx
from safetensors.torch import save_file

import dwp
from dwp.errors import InputError
from dwp.kernels import collection, pruning, readers
from dwp.kernels import store as kernel_store
from dwp.kernels.files import expand


@pytest.fixture
def folder(tmp_path):
    """Return a folder with checkpoints of three formats, in subfolders, and other files."""
    root = tmp_path / "nets"
    for number in (2, 10):
        (root / f"run-{number}").mkdir(parents=True)
        write_nets(root / f"run-{number}" / "net.safetensors", [number])
    torch.save(net(3), root / "run-2" / "late.pt")
    write_onnx(root / "a.onnx", {"w": net(4)["conv2.weight"].numpy()}, [("Conv", "w")])
    (root / ".hidden").mkdir()
    for other in ("README.md", "run-2/log.csv", ".hidden/net.pt"):
        (root / other).write_text("no kernels")
    return root


def kernels_of(*numbers):
    weights = [net(n)[name] for n in numbers for name in ("conv2.weight", "conv3.weight")]
    return torch.cat([weight.reshape(-1, 1, 3, 3) for weight in weights])


def write_array(path, n=4000, seed=0):
    np.save(path, np.random.default_rng(seed).normal(size=(n, 3, 3)).astype(np.float32))
    return path


# Folders


def test_a_folder_stands_for_its_files_in_numeric_order(folder):
    names = ["a.onnx", "run-2/late.pt", "run-2/net.safetensors", "run-10/net.safetensors"]
    files = [str(folder / name) for name in names]
    assert expand(folder) == expand([folder]) == files
    assert expand([folder / "run-10", files[0]]) == [files[3], files[0]]


def test_folders_and_files_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"^kernels: folder .*empty has no file that ends in .safetensors, "):
        expand([tmp_path / "empty"])
    with pytest.raises(InputError, match=r"^here: there is no file .*nowhere$"):
        expand(tmp_path / "nowhere", "here")


def test_the_workflow_takes_a_folder(folder, tmp_path):
    files = expand(folder)
    by_folder, by_file = plan([str(folder)], "kernels.files"), plan(files, "kernels.files")
    assert by_folder.kernels_from() == by_file.kernels_from() == files
    versions = [{size: one.version for size, one in made.kernels.items()} for made in (by_folder, by_file)]
    assert versions[0] == versions[1]
    write_nets(folder / "more.safetensors", [5])
    assert plan([str(folder)], "kernels.files").kernels[7].version not in versions[0].values()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"kernels.files: folder .*empty has no file"):
        plan([str(tmp_path / "empty")], "kernels.files")


# Collecting


def test_collect_returns_the_kernels_of_every_file_in_order(folder):
    found = dwp.collect(folder, 3, threshold=0)
    onnx = net(4)["conv2.weight"].reshape(-1, 1, 3, 3)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.cat([onnx, kernels_of(3, 2, 10)]))


@pytest.mark.parametrize("threshold", ["otsu", "valley", 0.5])
def test_collect_prunes_as_the_workflow_does(tmp_path, threshold):
    w = np.random.default_rng(0).normal(size=(4000, 3, 3)).astype(np.float32)
    w[1000:] *= 1e-3
    np.save(tmp_path / "k.npy", w)
    kernel_store.collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=threshold, test_fraction=0.3)
    store = read_store(tmp_path / "k.h5")
    found = dwp.collect(tmp_path / "k.npy", 3, threshold=threshold)
    assert torch.equal(found, torch.from_numpy(w[:1000, None]))
    train, test = collection.split(found, 0.3)
    assert np.array_equal(train.numpy(), store["train/kernels"])
    assert np.array_equal(test.numpy(), store["test/kernels"])


def test_collect_warns_of_a_single_mode_and_refuses_what_the_workflow_refuses(tmp_path, caplog):
    file = write_array(tmp_path / "k.npy")
    dwp.collect(file, 3)
    assert "have a single mode, which otsu cuts in two" in caplog.text
    with pytest.raises(InputError, match="no file is given"):
        dwp.collect([], 3)
    for arguments, message in [
        ({"threshold": "valley"}, "a single mode, so there is no valley"),
        ({"threshold": 1e9}, "leaves 0 of 4000 3×3 kernels"),
        ({"threshold": 0, "most": 1}, "most is 1; expected a whole number from 2"),
    ]:
        with pytest.raises(InputError, match=message):
            dwp.collect(file, 3, **arguments)
    write_nets(tmp_path / "n.safetensors", [0])
    with pytest.raises(InputError, match=r"there is no 9×9 kernel in .*n.safetensors"):
        dwp.collect(tmp_path / "n.safetensors", 9)


# Samples


def test_a_sample_is_random_in_order_and_independent_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 100)
    one, two = write_array(tmp_path / "a.npy"), write_array(tmp_path / "b.npy", seed=1)
    every = dwp.collect([one, two], 3, threshold=0)
    sample = dwp.collect([one, two], 3, threshold=0, most=500)
    place = {kernel.numpy().tobytes(): number for number, kernel in enumerate(every)}
    places = [place[kernel.numpy().tobytes()] for kernel in sample]
    assert len(places) == 500
    assert places == sorted(places)
    # Of the 4000 places before the middle; four standard errors.
    assert sum(number < 4000 for number in places) == pytest.approx(250, abs=4 * (500 / 4) ** 0.5)
    other = dwp.collect([two, one], 3, threshold=0, most=500)
    assert {k.numpy().tobytes() for k in other} == {k.numpy().tobytes() for k in sample}
    different = dwp.collect([one, two], 3, threshold=0, most=500, seed=1)
    shared = {k.numpy().tobytes() for k in different} & {k.numpy().tobytes() for k in sample}
    assert len(shared) < 100
    assert torch.equal(dwp.collect([one, two], 3, threshold=0, most=8000), every)


def test_whether_a_kernel_is_held_out_does_not_depend_on_the_sample(tmp_path):
    file = write_array(tmp_path / "k.npy", 20_000)
    for seed in range(3):
        train, test = collection.split(dwp.collect(file, 3, threshold=0, most=2000, seed=seed), 0.2, seed)
        assert len(test) / (len(train) + len(test)) == pytest.approx(0.2, abs=4 * (0.16 / 2000) ** 0.5)


def test_a_split_without_one_part_is_refused():
    with pytest.raises(InputError, match=r"1 kernels split into . for training and . for testing"):
        collection.split(torch.ones(1, 1, 3, 3), 0.5)


# Large files


class Parts:
    """An array that records how many kernels are read at a time."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, chosen):
        self.read.append(chosen.stop - chosen.start)
        return self.array[chosen]


def write_filter_db(path, n=1000, names=("filter",)):
    """Write kernels as CNN Filter DB does: [n, 9], beside a table in a group or a dataset of text."""
    array = np.random.default_rng(0).normal(size=(n, 9)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file[names[0]] = array
        if len(names) > 1:
            file[names[1]] = np.frombuffer(b"model,filter_ids\na,0:99", np.uint8)
        else:
            file["meta/axis0"] = np.arange(3)
            file["meta/block0_values"] = np.zeros(4)
    return array


@pytest.mark.parametrize("names", [("filter",), ("filters", "meta")])
def test_cnn_filter_db_is_read_as_it_is(tmp_path, names):
    array = write_filter_db(tmp_path / "dataset.h5", names=names)
    found = dwp.collect(tmp_path / "dataset.h5", 3, threshold=0)
    assert torch.equal(found, torch.from_numpy(array).view(-1, 1, 3, 3))
    counts = kernel_store.collect(
        [tmp_path / "dataset.h5"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3
    )
    assert counts["before"] == 1000
    with pytest.raises(InputError, match=r"has shape \(1000, 9\); expected .*\[n, 25\]"):
        dwp.collect(tmp_path / "dataset.h5", 5)


def test_arrays_are_read_in_parts_and_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "CHUNK", 100)
    array = Parts(write_filter_db(tmp_path / "dataset.h5"))
    sizes = [len(batch.kernels) for batch in readers._read_array(array, tmp_path / "k.npy", 3, 0)]
    assert array.read == sizes == [100] * 10


def test_numbers_on_disk_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(pruning, "NORMS", 64)
    values = np.random.default_rng(0).random(1000).astype(np.float32)
    with collection.Column(np.float32) as column:
        for part in np.split(values, [1, 1, 700]):
            column.append(part)
        assert len(column) == 1000
        sizes = [len(part) for part in pruning.parts(column)]
        assert np.array_equal(np.concatenate(list(pruning.parts(column))), values)
    assert sizes == [64] * 15 + [40]


def test_the_pool_of_a_sample_is_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "CHUNK", 50)
    file = write_array(tmp_path / "k.npy", 5000)
    sizes = []
    original = collection._smallest

    def smallest(pool, most):
        sizes.append(sum(len(part[0]) for part in pool))
        return original(pool, most)

    monkeypatch.setattr(collection, "_smallest", smallest)
    dwp.collect(file, 3, threshold=0, most=100)
    assert max(sizes) <= 2 * 100 + 50


def test_a_store_has_the_duplicates_that_a_sort_finds(tmp_path):
    w = np.random.default_rng(0).normal(size=(3000, 3, 3)).astype(np.float32)
    w[1000:1500] = w[:500]
    w[2000:2100] = w[:100]
    np.save(tmp_path / "k.npy", w)
    kernel_store.collect([tmp_path / "k.npy"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    assert kernel_store.pruning(tmp_path / "k.h5").duplicates == 600


def test_checkpoints_without_the_size_do_not_matter(tmp_path):
    save_file({"a.weight": torch.randn(4, 2, 5, 5)}, tmp_path / "a.safetensors")
    save_file({"a.weight": torch.randn(4, 2, 3, 3)}, tmp_path / "b.safetensors")
    assert dwp.collect(tmp_path, 3, threshold=0).shape == (8, 1, 3, 3)
