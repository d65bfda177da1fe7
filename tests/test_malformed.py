"""Malformed input raises the documented error and changes nothing.

The long form, about 50,000 inputs: DWP_INPUTS=3600 python -m pytest tests/test_malformed.py
"""

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import save
from test_data_files import NAMES, idx_bytes

from dwp.data import idx
from dwp.errors import InputError
from dwp.files import sha256
from dwp.kernels import store as kernel_store
from dwp.loading import locate
from dwp.pipeline import artifact_store, shards
from dwp.pipeline.challenge import challenge
from dwp.pipeline.config.model import read
from dwp.pipeline.manifest import read_manifest, version_of
from dwp.pipeline.plan import Plan
from dwp.pipeline.provenance import Artifact
from dwp.pipeline.shared_store import Store
from dwp.pipeline.times import settle
from dwp.pipeline.transfers import pull, push, to_pull, to_push
from dwp.pipeline.version_diff import diff
from dwp.priors.base import find, load_prior, save_prior

INPUTS = int(os.environ.get("DWP_INPUTS", "100"))
"""Number of inputs of each kind."""
COUNTS: Counter[tuple[str, str]] = Counter()
"""Number of uses of inputs by test and by what became of them; printed at the end, see conftest.py."""


def given(**strategies):
    """Return a decorator that runs a test for `INPUTS` inputs."""
    return lambda test: settings(max_examples=INPUTS, deadline=None)(generated(**strategies)(test))


BASE = yaml.safe_load((ROOT / "config.yaml").read_text())


def refused(use):
    """Return whether a call raises the documented one-line error; any other error fails the test."""
    message = None
    try:
        use()
    except InputError as error:
        message = str(error)
    assert message is None or (len(message) > 10 and "\n" not in message)
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].removesuffix(" (call)")
    COUNTS[test, "read" if message is None else "refused"] += 1
    return message is not None


# Bytes


@st.composite
def damages(draw):
    """A way to damage bytes: truncate them, change some, insert some, or replace all."""
    kind = draw(st.sampled_from(["cut", "change", "insert", "replace"]))
    return kind, draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8))


def damaged(content: bytes, damage: tuple) -> bytes:
    kind, where, new = damage
    at = int(where * (len(content) - 1))
    return {
        "cut": content[:at],
        "change": content[:at] + new + content[at + len(new) :],
        "insert": content[:at] + new + content[at:],
        "replace": new,
    }[kind]


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


# Values

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=6) | st.just("7x7"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(config: object, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            found += places(value, (*path, key))
    return found


def changed(content: dict, place: tuple, kind: str, value: object, key: str) -> dict:
    """Return a copy of nested mappings and lists with a value changed, dropped or added at a place."""
    content = copy.deepcopy(content)
    *parents, last = place
    where = content
    for parent in parents:
        where = where[parent]
    if kind == "drop":
        del where[last]
    elif kind == "add" and isinstance(where[last], dict):
        where[last][key] = value
    else:
        where[last] = value
    return content


kinds = st.sampled_from(["change", "drop", "add"])

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


def _manifest() -> dict:
    """Return the content of a manifest, as a job writes it."""
    made = Artifact("priors", {"kind": "vae", "steps": 60}, {"kernels": Artifact("kernels", {"size": 7})})
    job = {"input": {"kernels": "results/kernels/89abcdef/kernels-7x7.h5"}, "wildcards": {"name": "vae"}}
    job |= {"output": {"history": "vae-7x7.csv", "manifest": "vae-7x7.manifest.json"}, "threads": 1}
    return {
        **made.spec,
        "finished": "2026-11-20T12:00:00+00:00",
        "files": {"vae-7x7.csv": "0" * 64},
        "read": {job["input"]["kernels"]: "1" * 64},
        "job": job,
    }


MANIFEST = _manifest()
# Paths that leave the folder, and the like.
hostile = st.sampled_from(["../../x", "/etc/passwd", "..", "a/../../b", "", "\0", "~", "a\nb", "file:///x"])


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
        assert shards.same_prior(file.with_name("dwp-7x7.manifest.json"), MANIFEST, {}) == {}
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


# Shared stores


def _stored() -> dict[str, bytes]:
    """Return the files of a prior in a store, by name."""
    content = MANIFEST | {"files": {}}
    files = {"vae-7x7.csv": b"step,loss\n1,2.5\n", "vae-7x7.safetensors": bytes(range(64))}
    for name, data in files.items():
        content["files"][name] = hashlib.sha256(data).hexdigest()
    return files | {"vae-7x7.manifest.json": json.dumps(content).encode()}


STORED = _stored()
FOREIGN = ["vae-7x7.log", "vae-5x5.csv", ".vae-7x7.csv", "vae-7x7.a"]
FOLDER = f"priors/{MANIFEST['version'][:8]}"


def pulled(base: Path, files: dict[str, bytes]) -> dict[str, bytes] | None:
    """Pull files of a store into a new folder; return what is there then, None if the pull was refused."""
    run = base / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    before = sorted(base.rglob("*"))
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    for name, data in files.items():
        store.pipe_file(f"/store/{FOLDER}/{name}", data)

    def use() -> None:
        remote = Store("memory://store")
        for cell in to_pull(remote, remote.find(FOLDER), lambda manifest, content: True).todo:
            pull(remote, cell)

    with contextlib.chdir(run):
        was_refused = refused(use)
    new = [path for path in base.rglob("*") if path not in before]
    assert all(path.is_relative_to(run / "results" / FOLDER) or path.is_dir() for path in new)
    found = {path.relative_to(run / "results" / FOLDER).as_posix(): path for path in new if path.is_file()}
    assert not any(path.is_symlink() for path in new)
    return None if was_refused else {name: path.read_bytes() for name, path in found.items()}


@given(damage=damages(), name=st.sampled_from(sorted(STORED)))
def test_damaged_files_of_a_store(tmp_path_factory, damage, name):
    base = tmp_path_factory.getbasetemp() / "damaged-store"
    files = STORED | {name: damaged(STORED[name], damage)}
    found = pulled(base, files)
    if found is not None:
        listed = json.loads(found["vae-7x7.manifest.json"])["files"]
        assert {key: hashlib.sha256(found[key]).hexdigest() for key in listed} == listed
    else:  # files that were whole may be there, without a manifest
        kept = (path for path in (base / "run" / "results" / FOLDER).glob("*") if path.is_file())
        assert all(path.read_bytes() == STORED[path.name] for path in kept)


@given(
    place=st.none() | st.sampled_from(places(json.loads(STORED["vae-7x7.manifest.json"]))),
    kind=kinds,
    value=values | hostile,
    key=st.text() | hostile,
    added=st.booleans(),
    name=hostile | st.text(max_size=12) | st.sampled_from(FOREIGN),
)
def test_malformed_manifests_of_a_store(tmp_path_factory, place, kind, value, key, added, name):
    base = tmp_path_factory.getbasetemp() / "hostile-store"
    content = json.loads(STORED["vae-7x7.manifest.json"])
    if place is not None:
        content = changed(content, place, kind, value, key)
    if added and isinstance(content.get("files"), dict):  # a path with the right bytes behind it
        content["files"][name] = hashlib.sha256(b"x").hexdigest()
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        inputs = {role: label.rpartition("/")[2] for role, label in content["inputs"].items()}
        content["version"] = version_of(content["stage"], content["params"], inputs)
    files = STORED | {"vae-7x7.manifest.json": json.dumps(content).encode()}
    if added and name.isprintable() and name.strip("./") and "/" not in name:
        files[name] = b"x"
    found = pulled(base, files)
    if found is not None:
        with contextlib.chdir(base / "run"):
            assert artifact_store.verify(artifact_store.read())[0] == []


@given(
    depth=st.integers(1, 120) | st.integers(1, 3000),
    bracket=st.sampled_from(["[]", "{}"]),
    key=st.just("note") | st.sampled_from(sorted(MANIFEST)),
)
def test_deeply_nested_manifests_of_a_store(tmp_path_factory, depth, bracket, key):
    base = tmp_path_factory.getbasetemp() / "deep-store"
    nested = "[" * depth + "]" * depth if bracket == "[]" else '{"a":' * depth + "1" + "}" * depth
    text = json.dumps(json.loads(STORED["vae-7x7.manifest.json"]) | {key: "HERE"}).replace('"HERE"', nested)
    found = pulled(base, STORED | {"vae-7x7.manifest.json": text.encode()})
    assert found is None or key == "note"


@given(damage=damages(), name=st.sampled_from(sorted(STORED)))
def test_damaged_files_are_not_pushed(tmp_path_factory, damage, name):
    folder = tmp_path_factory.getbasetemp() / "pushed" / "results" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in (STORED | {name: damaged(STORED[name], damage)}).items():
        (folder / file).write_bytes(data)
    store = fsspec.filesystem("memory")
    store.store.clear()
    with contextlib.chdir(folder.parents[2]):
        manifest = Path("results", FOLDER, "vae-7x7.manifest.json")

        def use() -> None:
            remote = Store("memory://store")
            for cell in to_push(remote, [manifest]).todo:
                push(remote, cell)

        if not refused(use):
            for file, digest in json.loads(manifest.read_text())["files"].items():
                assert sha256(manifest.with_name(file)) == digest
        else:
            assert store.find("/store") == []
