"""Malformed and hostile contents of a shared store are refused, and nothing outside its folder changes."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import fsspec
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

from dwp.files import sha256
from dwp.pipeline.manifest import version_of
from dwp.results import artifact_store
from dwp.results.shared_store import Store
from dwp.results.transfers import pull, push, to_pull, to_push


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
