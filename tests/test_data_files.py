"""Local copies: IDX files, intact and damaged, and the published ones."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_samples import NAMES, idx_bytes, refused, write, write_arrays

from dwp import data

REAL = Path(os.environ.get("DWP_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("name", ["mnist", "notmnist", "fashion-mnist", "kmnist"])
def test_a_local_folder_wins_over_the_download(tmp_path, name, compress):
    write(tmp_path / name, compress)
    dataset = data.build(name, data_root=tmp_path, downloads=tmp_path / "downloads")
    assert dataset.name == name
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.train_labels.tolist() == [0, 1, 2, 3] * 3
    expected = idx_bytes((12, 28, 28))[16:]
    assert dataset.train_images.numpy().tobytes() == expected
    assert not (tmp_path / "downloads").exists()


def test_identity_is_that_of_the_files_wherever_they_are(tmp_path):
    write(tmp_path / "here" / "mnist")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (data.identity("mnist", data_root=tmp_path / root) for root in ("here", "there"))
    assert here == there
    assert set(here["files"]) == {f"{name}.gz" for name in NAMES}
    labels = tmp_path / "there" / "mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes((12,))[:-1] + b"\0"))
    assert data.identity("mnist", data_root=tmp_path / "there") != here


@pytest.mark.parametrize(("name", "write"), [("mnist", write), ("mine", write_arrays)])
def test_identity_of_a_local_folder_needs_no_torch(tmp_path, name, write):
    write(tmp_path / name)
    code = (
        "import sys; from dwp.data import identity; identity(sys.argv[1], data_root=sys.argv[2]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, name, tmp_path], check=True)


def cut(content):
    return content[:-3]


def lengthen(content):
    return content + b"abc"


def mislabel(content):
    return b"\0\0\x09\x01" + content[4:]


def miscount(content):
    return content[:4] + struct.pack(">I", 5) + content[8:] + b"\0"


DAMAGES = {
    "cut": (cut, "truncated; expected 12 bytes .*found 9"),
    "lengthen": (lengthen, "too long; expected 12 bytes .*found 15"),
    "mislabel": (mislabel, "wrong header; expected magic number 0x801, found 0x901"),
    "miscount": (miscount, "5 labels for the 4 images"),
    "header only": (lambda content: content[:6], "truncated; expected a header of 8 bytes, found 6"),
    "no content": (lambda content: b"", "truncated; expected a header of 8 bytes, found 0"),
    "zero": (lambda content: content[:4] + bytes(4), r"empty; its header gives the shape \[0\]"),
}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_by_name(tmp_path, damage, compress):
    write(tmp_path / "mnist", compress)
    path = tmp_path / "mnist" / f"t10k-labels-idx1-ubyte{'.gz' * compress}"
    change, message = DAMAGES[damage]
    content = change(idx_bytes((4,)))
    path.write_bytes(gzip.compress(content) if compress else content)
    refused(tmp_path, f"t10k-labels-idx1-ubyte.*{message}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], r"truncated; expected \d+ bytes .*found \d+"),
        (lambda content: content[:-8], r"truncated; expected \d+ bytes .*end was missing"),
        (lambda content: content[:5], "truncated; expected a header"),
        (lambda content: b"not gzip" + content, "cannot be read"),
        (lambda content: content[:-8] + bytes(8), "cannot be read"),
        (lambda content: content[:200] + b"\0\xff" * 20 + content[240:], "cannot be read"),
    ],
)
def test_damaged_compression_is_refused(tmp_path, damage, message):
    write(tmp_path / "mnist")
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(tmp_path, f"t10k-images-idx3-ubyte.gz.*{message}")


def test_a_missing_file_is_named_and_nothing_else_is_used_instead(tmp_path):
    write(tmp_path / "mnist")
    write(tmp_path / "notmnist")
    (tmp_path / "notmnist" / "train-images-idx3-ubyte.gz").unlink()
    refused(tmp_path, "notmnist: train-images-idx3-ubyte is missing", name="notmnist")


def test_a_missing_root_and_a_file_for_a_folder_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "nowhere is not a folder")
    (tmp_path / "mnist").write_text("")
    refused(tmp_path, "mnist is a file; expected a folder")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL}; DWP_TEST_DATA can name their folder")
@pytest.mark.parametrize(("name", "train", "test"), [("mnist", 22_699, 10_000), ("notmnist", 9_000, 1_000)])
def test_real_files_load(tmp_path, name, train, test):
    identity = data.identity(name, data_root=REAL)
    assert len(identity["files"]) == 4
    dataset = data.build(name, data_root=REAL, downloads=tmp_path)
    assert dataset.train_images.shape == (train, 1, 28, 28)
    assert dataset.test_images.shape == (test, 1, 28, 28)
    assert dataset.classes == 10
    split = data.few_shot(dataset.train_labels, 50, seed=0)
    assert dataset.train_labels[split].bincount().tolist() == [5] * 10
    assert 0.05 < float(dataset.images("test")[:1000].mean()) < 0.6
    assert dataset.train_labels.unique().equal(torch.arange(10))
