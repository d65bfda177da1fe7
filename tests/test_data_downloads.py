"""Downloads from a server on this machine."""

import gzip
import hashlib
import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
import scipy.io
from http_server import serve
from test_data_files import NAMES, idx_bytes

from dwp import data
from dwp.data import downloaded
from dwp.errors import InputError
from dwp.torchvision_import import torchvision_datasets

IMAGES = "train-images-idx3-ubyte.gz"


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Record the seconds to wait before each retry, without waiting."""
    found = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=found.append))
    monkeypatch.setattr(downloaded, "TIMEOUT_SECONDS", 0.3)
    return found


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of `<tmp_path>/remote`, reached without a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "remote").mkdir()
    with serve(tmp_path / "remote") as server:
        yield server


@pytest.fixture
def files(tmp_path, server):
    """The four IDX files of a small set on the server: name -> content."""
    contents = {f"{name}.gz": gzip.compress(idx_bytes(shape), mtime=0) for name, shape in NAMES.items()}
    for name, content in contents.items():
        (tmp_path / "remote" / name).write_bytes(content)
    return contents


@pytest.fixture
def mnist(server, files, monkeypatch):
    """torchvision's MNIST pointed to the server."""
    cls = torchvision_datasets().MNIST
    monkeypatch.setattr(cls, "mirrors", [server.url])
    monkeypatch.setattr(cls, "resources", [(name, md5(content)) for name, content in files.items()])
    return cls


@pytest.fixture
def notmnist(server, files, monkeypatch):
    """Our notMNIST pointed to the server, pinned as the real one is."""
    pins = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in files.items()}
    blob = b"blob %d\0" % len(files[IMAGES]) + files[IMAGES]
    pins[IMAGES] = f"git-blob:{hashlib.sha1(blob, usedforsecurity=False).hexdigest()}"
    monkeypatch.setattr(downloaded, "NOTMNIST_URL", server.url)
    monkeypatch.setattr(downloaded, "NOTMNIST_CHECKSUMS", pins)


@pytest.mark.parametrize("name", ["mnist", "notmnist"])
def test_download_is_read_kept_and_usable_as_a_local_copy(tmp_path, server, request, name):
    request.getfixturevalue(name)
    dataset = data.build(name, downloads=tmp_path / "downloads")
    assert dataset.train_images.numpy().tobytes() == idx_bytes((12, 28, 28))[16:]
    assert len(server.requested) == 4
    again = data.build(name, downloads=tmp_path / "downloads")
    assert len(server.requested) == 4
    local = data.build(name, data_root=tmp_path / "downloads", downloads=tmp_path / "unused")
    for other in (again, local):
        assert other.train_images.equal(dataset.train_images)
    assert not (tmp_path / "unused").exists()


def test_torchvision_itself_reads_what_the_server_gives(tmp_path, mnist):
    theirs = mnist(tmp_path / "theirs", train=True, download=True)
    ours = data.build("mnist", downloads=tmp_path / "downloads")
    assert ours.train_images[:, 0].equal(theirs.data)
    assert ours.train_labels.equal(theirs.targets)


def test_a_data_root_without_the_folder_leads_to_the_download(tmp_path, mnist, server):
    (tmp_path / "root").mkdir()
    data.build("mnist", data_root=tmp_path / "root", downloads=tmp_path / "downloads")
    assert len(server.requested) == 4


def test_the_second_mirror_serves_when_the_first_fails(tmp_path, mnist, server, monkeypatch):
    monkeypatch.setattr(mnist, "mirrors", [f"{server.url}absent/", server.url])
    assert len(data.build("mnist", downloads=tmp_path / "downloads").train_labels) == 12


@pytest.mark.parametrize("name", ["mnist", "notmnist"])
@pytest.mark.parametrize("fault", [404, 500, "truncate", "stall", "corrupt", "loop", "nowhere", "file"])
def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path, server, request, name, fault):
    request.getfixturevalue(name)
    if fault == "corrupt":
        (tmp_path / "remote" / IMAGES).write_bytes(gzip.compress(idx_bytes((13, 28, 28))))
    else:
        places = {"loop": f"/{IMAGES}", "nowhere": "http://127.0.0.1:1/", "file": "file:///etc/hostname"}
        server.faults[f"/{IMAGES}"] = places.get(fault, fault)
    with pytest.raises(InputError, match=f"cannot fetch {IMAGES}.*127.0.0.1.*data_root can point") as error:
        data.build(name, downloads=tmp_path / "downloads")
    assert "\n" not in str(error.value)
    assert [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["mnist", "notmnist"])
def test_what_goes_wrong_for_a_while_is_tried_again_with_longer_and_longer_waits(
    tmp_path, server, request, waits, name
):
    request.getfixturevalue(name)
    server.faults[f"/{IMAGES}"] = ["truncate", 503, "stall"]
    assert len(data.build(name, downloads=tmp_path / "downloads").train_labels) == 12
    assert waits == [1, 2, 3]
    assert len([path for path in server.requested if path == f"/{IMAGES}"]) == 4


def test_a_redirection_is_followed_to_what_has_the_checksum(tmp_path, server, mnist, files):
    (tmp_path / "remote" / "moved.gz").write_bytes(files[IMAGES])
    server.faults[f"/{IMAGES}"] = "/moved.gz"
    assert len(data.build("mnist", downloads=tmp_path / "downloads").train_labels) == 12
    assert "/moved.gz" in server.requested


def test_two_processes_may_want_one_data_set(tmp_path, server, mnist, files):
    server.faults[f"/{IMAGES}"] = ["truncate", 500, "truncate"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: data.build("mnist", downloads=tmp_path / "downloads"), range(4)))
    assert all(dataset.train_images.equal(found[0].train_images) for dataset in found)
    there = {path.name: path.read_bytes() for path in (tmp_path / "downloads" / "mnist").iterdir()}
    assert there == files


def test_an_unreachable_server_is_one_line(tmp_path, mnist, monkeypatch):
    monkeypatch.setattr(mnist, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(InputError, match=f"cannot fetch {IMAGES}"):
        data.build("mnist", downloads=tmp_path / "downloads")


@pytest.mark.parametrize("name", ["mnist", "notmnist"])
def test_a_damaged_earlier_download_is_not_used(tmp_path, request, files, name):
    request.getfixturevalue(name)
    data.build(name, downloads=tmp_path / "downloads")
    path = tmp_path / "downloads" / name / IMAGES
    path.write_bytes(path.read_bytes()[:-1])
    with_damage = path.read_bytes()
    assert len(data.build(name, downloads=tmp_path / "downloads").train_labels) == 12
    assert path.read_bytes() == files[IMAGES] != with_damage


def test_identity_of_a_download_is_its_pins(mnist, notmnist, files, server):
    assert data.identity("mnist")["files"] == {name: f"md5:{md5(content)}" for name, content in files.items()}
    pins = data.identity("notmnist")["files"]
    assert pins == downloaded.NOTMNIST_CHECKSUMS
    assert server.requested == []


# CIFAR and SVHN


@pytest.fixture
def cifar10(tmp_path, server, monkeypatch):
    """torchvision's CIFAR10 pointed to a synthetic archive on the server."""
    generator = np.random.default_rng(0)
    members = {"batches.meta": {"label_names": list("abcd")}}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        pixels = generator.integers(256, size=(8, 3072), dtype=np.uint8)
        members[name] = {"data": pixels, "labels": [0, 1, 2, 3] * 2}
    contents = {name: pickle.dumps(value) for name, value in members.items()}
    archive = tmp_path / "remote" / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    cls = torchvision_datasets().CIFAR10
    listed = {name: [name, md5(content)] for name, content in contents.items()}
    monkeypatch.setattr(cls, "train_list", [listed["data_batch_1"], listed["data_batch_2"]])
    monkeypatch.setattr(cls, "test_list", [listed["test_batch"]])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": listed["batches.meta"][1]})
    monkeypatch.setattr(cls, "url", f"{server.url}cifar.tar.gz")
    monkeypatch.setattr(cls, "filename", "cifar.tar.gz")
    monkeypatch.setattr(cls, "tgz_md5", md5(archive.read_bytes()))
    return members


@pytest.fixture
def svhn(tmp_path, server, monkeypatch):
    """torchvision's SVHN pointed to synthetic Matlab files on the server; its digit 0 has label 10."""
    listed = {}
    for split in ("train", "test"):
        name = f"{split}_32x32.mat"
        pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3, 10), dtype=np.uint8)
        labels = np.arange(1, 11, dtype=np.uint8)[:, None]
        scipy.io.savemat(tmp_path / "remote" / name, {"X": pixels, "y": labels})
        listed[split] = [server.url + name, name, md5((tmp_path / "remote" / name).read_bytes())]
    monkeypatch.setattr(torchvision_datasets().SVHN, "split_list", listed)


def test_cifar_is_downloaded_unpacked_and_read(tmp_path, server, cifar10):
    dataset = data.build("cifar10", downloads=tmp_path / "downloads")
    assert dataset.image_shape == (3, 32, 32)
    pixels = np.concatenate([cifar10["data_batch_1"]["data"], cifar10["data_batch_2"]["data"]])
    assert dataset.train_images.numpy().tobytes() == pixels.tobytes()
    assert dataset.test_labels.tolist() == [0, 1, 2, 3] * 2
    local = data.build("cifar10", data_root=tmp_path / "downloads", downloads=tmp_path / "unused")
    assert local.test_images.equal(dataset.test_images)
    assert len(server.requested) == 1
    # The files with torchvision's MD5s: the same data in any folder.
    assert data.identity("cifar10") == data.identity("cifar10", data_root=tmp_path / "downloads")


def test_svhn_is_downloaded_and_read(tmp_path, server, svhn):
    dataset = data.build("svhn", downloads=tmp_path / "downloads")
    assert dataset.train_images.shape == (10, 3, 32, 32)
    assert dataset.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    data.build("svhn", data_root=tmp_path / "downloads", downloads=tmp_path / "unused")
    assert len(server.requested) == 2


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_local_cifar_is_refused_before_it_is_unpickled(tmp_path, cifar10, damage):
    data.build("cifar10", downloads=tmp_path / "root")
    path = tmp_path / "root" / "cifar10" / "cifar-10-batches-py" / "data_batch_2"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"data_batch_2.*{damage}"):
        data.identity("cifar10", data_root=tmp_path / "root")
    with pytest.raises(InputError, match=f"data_batch_2.*{damage}"):
        data.build("cifar10", data_root=tmp_path / "root", downloads=tmp_path / "downloads")
    # A download is repaired from the archive that is still there.
    assert len(data.build("cifar10", downloads=tmp_path / "root").train_labels) == 16


def test_a_failed_cifar_download_is_one_line(tmp_path, cifar10, server):
    server.faults["/cifar.tar.gz"] = 404
    with pytest.raises(InputError, match=r"cannot fetch cifar.tar.gz"):
        data.build("cifar10", downloads=tmp_path / "downloads")
