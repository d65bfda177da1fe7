"""Malformed input raises the documented error and changes nothing.

The long form, about 50,000 inputs: DWP_INPUTS=3600 python -m pytest tests/test_malformed*.py
"""

import contextlib
import gzip
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import strategies as st
from malformed_inputs import (
    MANIFEST,
    changed,
    damaged,
    damages,
    given,
    hostile,
    kinds,
    places,
    refused,
    values,
)
from safetensors.torch import save
from test_data_files import NAMES, idx_bytes

from dwp.data import idx
from dwp.kernels import store as kernel_store
from dwp.loading import locate
from dwp.pipeline.config.model import read
from dwp.pipeline.manifest import read_manifest, version_of
from dwp.pipeline.plan import Plan
from dwp.pipeline.times import settle
from dwp.priors.base import find, load_prior, save_prior
from dwp.results import artifact_store
from dwp.results.challenge import challenge
from dwp.results.shared_store import Store
from dwp.results.version_diff import diff

BASE = yaml.safe_load((ROOT / "config.yaml").read_text())


# Bytes


def sample_kernels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 1, 5, 5)).astype(np.float32)


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, sample_kernels())
    return stream.getvalue()


def _h5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["kernels"] = sample_kernels()
    return stream.getvalue()


def _pt() -> bytes:
    stream = io.BytesIO()
    torch.save({"conv.weight": torch.from_numpy(sample_kernels())}, stream)
    return stream.getvalue()


IMPORTED = {
    ".safetensors": save({"conv.weight": torch.from_numpy(sample_kernels())}),
    ".pt": _pt(),
    ".npy": _npy(),
    ".h5": _h5(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("malformed")


@pytest.mark.parametrize("suffix", IMPORTED)
@given(damage=damages())
def test_damaged_checkpoints_and_arrays(folder, suffix, damage):
    path, output = folder / f"kernels{suffix}", folder / "store.h5"
    path.write_bytes(damaged(IMPORTED[suffix], damage))
    output.write_bytes(b"an artifact")
    if refused(lambda: kernel_store.collect([path], 5, output, threshold=0.0, test_fraction=0.3)):
        assert output.read_bytes() == b"an artifact"
    else:  # the damage left kernels, and numbers that are finite
        assert torch.isfinite(kernel_store.load(output, "train")).all()
    assert {file.name for file in folder.glob("*store*")} == {"store.h5"}


@pytest.fixture(scope="module")
def store(folder):
    np.save(folder / "arrays.npy", sample_kernels())
    kernel_store.collect([folder / "arrays.npy"], 5, folder / "good.h5", threshold=0.0, test_fraction=0.3)
    return folder / "good.h5"


@given(damage=damages())
def test_damaged_stores(store, damage):
    path = store.with_name("bad.h5")
    path.write_bytes(damaged(store.read_bytes(), damage))
    loaded = []
    if not refused(lambda: loaded.append(kernel_store.load(path, "train"))):
        assert loaded[0].shape[1:] == (1, 5, 5)
        assert torch.isfinite(loaded[0]).all()


@pytest.fixture(scope="module")
def prior(folder):
    save_prior(find("vae")(5, hidden=2, latent=1), folder / "prior.safetensors")
    return folder / "prior.safetensors"


@given(damage=damages())
def test_damaged_priors(prior, damage):
    path = prior.with_name("bad.safetensors")
    path.write_bytes(damaged(prior.read_bytes(), damage))
    loaded = []
    if not refused(lambda: loaded.append(load_prior(path))):
        assert loaded[0].sample(3).shape[2] == loaded[0].kernel_size


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@given(damage=damages(), name=st.sampled_from(sorted(NAMES)))
def test_damaged_idx_files(tmp_path_factory, packed, damage, name):
    folder = tmp_path_factory.getbasetemp() / f"idx-{packed}"
    folder.mkdir(exist_ok=True)
    contents = {key: idx_bytes(shape) for key, shape in NAMES.items()}
    for key, content in contents.items():
        content = gzip.compress(content, mtime=0) if packed else content
        content = damaged(content, damage) if key == name else content
        (folder / f"{key}{'.gz' if packed else ''}").write_bytes(content)
    found = []
    if refused(lambda: found.append(idx.read(idx.find(folder), (28, 28)))):
        return
    # A file of intact form has its numbers; gzip has a checksum for those too.
    for field, (key, _) in idx.FILES.items():
        expected = contents[key]
        header = 4 + 4 * found[0][field].ndim
        assert found[0][field].size == len(expected) - header
        if packed:
            assert found[0][field].tobytes() == expected[header:]


# Configurations

PLACES = places(BASE)


@given(place=st.sampled_from(PLACES), kind=kinds, value=values, key=st.text())
def test_malformed_configurations(place, kind, value, key):
    config = changed(BASE, place, kind, value, key)

    def use() -> None:
        Plan(read(config)).files()

    before = sorted(Path("results").rglob("*"))
    refused(use)
    assert sorted(Path("results").rglob("*")) == before


# Manifests


@given(
    place=st.sampled_from(places(MANIFEST)),
    kind=kinds,
    value=values | hostile,
    key=st.text() | hostile,
    again=st.booleans(),
)
def test_malformed_manifests(tmp_path_factory, place, kind, value, key, again):
    content = changed(MANIFEST, place, kind, value, key)
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        if again:  # a version that agrees with what was changed, as an enemy would write
            inputs = {role: label.rpartition("/")[2] for role, label in content["inputs"].items()}
            content["version"] = version_of(content["stage"], content["params"], inputs)
    folder = tmp_path_factory.getbasetemp() / "manifests"
    version = MANIFEST["version"][:8]
    file = folder / "results" / "priors" / version / "vae-7x7.manifest.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    before = sorted(folder.rglob("*"))
    with contextlib.chdir(folder):
        found = []
        refused(lambda: found.append(read_manifest(file)))
        # What reads manifests takes a refused one for none.
        (known,) = artifact_store.read()
        artifact_store.verify([known])
        assert known.size > 0
        assert diff(known, known, [known])["changes"] == [] if known.spec else True
        assert settle([str(file)], lambda manifest: not refused(lambda: read_manifest(manifest))) == []
        assert refused(lambda: challenge(known))
    assert all(name.startswith("vae") or ".." not in name for one in found for name in one["files"])
    assert sorted(folder.rglob("*")) == before


# Addresses

strange = ["..", "~", "%00", "\0", "::", "?a=b", "#x", "a\nb", " ", "*", "é" * 300]
odd = st.text(max_size=8) | st.sampled_from(strange)
SCHEMES = (
    "http https hf file local memory s3 sftp ftp zip tar dir data reference simplecache blockcache generic "
    "python https:http HTTP h"
)
HOSTS = ["127.0.0.1:1", "", "[", "[::1]:1", "127.0.0.1:port", "127.0.0.1:99999999", "a b", "u:p@"]


@st.composite
def addresses(draw):
    """An address, most often a malformed one; none leads to another machine."""
    scheme = draw(st.sampled_from(SCHEMES.split()) | st.text(max_size=4))
    slashes = draw(st.sampled_from(["://", ":", ":/", "", "::", "://::"]))
    host = draw(st.sampled_from(HOSTS))
    return scheme + slashes + host + "/".join(draw(st.lists(odd, max_size=3)))


@pytest.fixture
def no_network(monkeypatch):
    """Let no test look up a name, should an address have one by chance."""

    def refuse(*args, **kwargs):
        raise ConnectionRefusedError("no network in this test")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(f"socket.{name}", refuse)


@pytest.mark.usefixtures("no_network")
def test_malformed_addresses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("addresses")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("DWP_CACHE", str(folder / "cache"))

    @given(address=addresses())
    def check(address):
        with contextlib.chdir(folder):
            found = []
            refused(lambda: found.append(locate(address, "0" * 64)))
            refused(lambda: locate(address))
            refused(lambda: Store(address).manifest(Path("results/priors/01234567/vae-7x7.manifest.json")))
            refused(lambda: Store(address).find("priors/01234567"))
        assert found == []
        assert not [path for path in folder.rglob("*") if path.is_file()]

    try:
        check()
    finally:
        monkeypatch.undo()
