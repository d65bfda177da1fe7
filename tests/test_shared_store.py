"""`dwp push` and `dwp pull`: results copied to a shared store and from it."""

import contextlib
import errno
import json
import os
import shutil

import fsspec
import pytest
from conftest import ROOT, snakemake
from dry_runs import NOTHING, dry_run
from fsspec.implementations.memory import MemoryFileSystem
from http_server import serve
from test_extras import absent  # noqa: F401
from version_samples import OTHER_PRIOR, PRIOR, REPORT, SOURCE, label, put, put_results

from dwp.files import sha256
from dwp.pipeline.manifest import write_manifest
from dwp.results import artifact_store, transfers
from dwp.results.cli import main


class Moving(MemoryFileSystem):
    """Files in memory, with a move of its own and real folders, as SFTP has."""

    protocol = "moving"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    moved: list = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("moving://"))

    def mv(self, path1, path2, **kwargs):
        self.moved.append((path1, path2))
        super().mv(path1, path2, **kwargs)


@pytest.fixture(autouse=True)
def memory():
    fsspec.register_implementation("moving", Moving, clobber=True)
    yield
    for kind in (MemoryFileSystem, Moving):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]


@pytest.fixture(params=["folder", "memory", "moving"])
def store(request, tmp_path):
    """Return the address of an empty store."""
    (tmp_path / "store").mkdir()
    Moving().mkdir("/store")
    return {"folder": str(tmp_path / "store"), "memory": "memory://store", "moving": "moving://store"}[
        request.param
    ]


@pytest.fixture
def ours(tmp_path, monkeypatch):
    (tmp_path / "ours").mkdir()
    monkeypatch.chdir(tmp_path / "ours")
    return put_results()


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".claims" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stored(address):
    files, root = fsspec.core.url_to_fs(address)
    return {path.removeprefix(root + "/"): files.cat_file(path) for path in files.find(root)}


def refusal(capsys, *words):
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert error.startswith("dwp: ")
    assert error.count("\n") == 1
    return error


def test_versions_go_to_a_store_and_from_it(ours, theirs, store, capsys):
    names = [label(PRIOR), label(SOURCE), label(REPORT)]
    assert main(["push", store, *names]) == 0
    before = contents(ours)
    files = {name for name in before if name.startswith(tuple(names)) and not name.endswith(".log")}
    assert stored(store) == {name: before[name] for name in files}
    assert len(files) == 2 + 1 + 4 + 2 + 2 + 1
    capsys.readouterr()
    assert main(["push", store, *names, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pushed"] == []
    assert main(["pull", store, *names[:2], REPORT.version[:6], "--directory", str(theirs)]) == 0
    assert contents(theirs / "results") == {name: before[name] for name in files}
    assert main(["verify", "--directory", str(theirs)]) == 0
    capsys.readouterr()
    assert main(["pull", store, *names, "--directory", str(theirs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pulled"], len(found["there"])) == ([], 4)
    if store.startswith("moving"):
        assert len(Moving.moved) == len(files)


def test_a_run_after_a_pull_does_only_what_is_missing(smoke_run, tmp_path, capsys):
    store, run = tmp_path / "store", tmp_path / "run"
    for folder in (store, run):
        folder.mkdir()
    smoke = ["--configfile", str(ROOT / "config" / "smoke.yaml")]
    assert main(["push", str(store), *smoke, "--directory", str(smoke_run)]) == 0
    assert main(["pull", str(store), *smoke, "--directory", str(run)]) == 0
    assert ", 0 here already, 0 not in the store" in capsys.readouterr().out
    assert dry_run(ROOT, run) == NOTHING
    # A cell that nobody has pushed.
    shutil.rmtree(run)
    run.mkdir()
    (scores,) = store.glob("scores/*/scores-7x7.manifest.json")
    scores.unlink()
    assert main(["pull", str(store), *smoke, "--directory", str(run)]) == 0
    assert ", 1 not in the store" in capsys.readouterr().out
    assert dry_run(ROOT, run) == {"scores/7x7": 1, "report": 1}
    assert snakemake(run, "--dry-run").returncode == 0


class Interruption(BaseException):
    pass


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupted_transfer_goes_on_where_it_stopped(ours, theirs, store, monkeypatch, after):
    def interrupted(words, place, name):
        calls, real = [], getattr(transfers.Store, place)

        def step(self, file, digest):
            calls.append(file)
            if len(calls) == after:
                raise Interruption
            real(self, file, digest)

        with monkeypatch.context() as patch:
            patch.setattr(transfers.Store, place, step)
            with contextlib.suppress(Interruption):
                main(words)
        return calls

    def complete(found):
        """Check that what has a manifest has its files."""
        for name, content in found.items():
            if name.endswith("manifest.json"):
                folder = name.rpartition("/")[0]
                assert {f"{folder}/{file}" for file in json.loads(content)["files"]} <= found.keys()

    words = ["push", store, label(SOURCE)]
    interrupted(words, "put", store)
    complete(stored(store))
    assert len(stored(store)) == after - 1
    assert main(words) == 0
    assert len(stored(store)) == 6
    words = ["pull", store, label(SOURCE), "--directory", str(theirs)]
    interrupted(words, "get", store)
    complete(contents(theirs))
    first = {path: path.stat().st_mtime_ns for path in theirs.rglob("nets-*")}
    assert main(words) == 0
    assert stored(store) == contents(theirs / "results")
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())


def test_a_failed_write_leaves_nothing_behind(ours, theirs, monkeypatch, capsys):
    Moving().mkdir("/store")

    def full(self, lpath, rpath, **kwargs):
        self.pipe_file(rpath, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Moving, "put_file", full)
    error = refusal(capsys, "push", "moving://store", label(PRIOR))
    assert error.endswith("No space left on device; free some space\n")
    assert stored("moving://store") == {}


# What is there is kept


def test_another_result_is_not_overwritten_on_either_side(ours, theirs, store, tmp_path, capsys):
    assert main(["push", store, label(PRIOR)]) == 0
    before = stored(store)
    put(PRIOR, "vae-7x7.safetensors", "vae-7x7.csv")
    path = ours / label(PRIOR) / "vae-7x7.csv"
    path.write_text("other bytes")
    write_manifest(path.with_suffix(".manifest.json"), PRIOR.spec, [path, path.with_suffix(".safetensors")])
    here = contents(ours)
    error = refusal(capsys, "push", store, label(SOURCE), label(PRIOR))
    assert "differ (vae-7x7.csv); neither is changed" in error
    assert stored(store) == before
    error = refusal(capsys, "pull", store, label(PRIOR))
    assert "differ (vae-7x7.csv); neither is changed" in error
    assert contents(ours) == here


def test_files_without_a_manifest_are_kept_too(ours, theirs, store, capsys):
    assert main(["push", store, label(PRIOR)]) == 0
    files, root = fsspec.core.url_to_fs(store)
    files.rm_file(f"{root}/{label(PRIOR)}/vae-7x7.manifest.json")
    files.pipe_file(f"{root}/{label(PRIOR)}/vae-7x7.csv", b"mine")
    assert "with other bytes and without a manifest" in refusal(capsys, "push", store, label(PRIOR))
    assert files.cat_file(f"{root}/{label(PRIOR)}/vae-7x7.csv") == b"mine"
    assert main(["push", store, label(SOURCE)]) == 0
    mine = theirs / "results" / label(SOURCE) / "nets-000-009.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    error = refusal(capsys, "pull", store, label(SOURCE), "--directory", theirs)
    assert "it is kept: delete it" in error
    assert contents(theirs) == {f"results/{label(SOURCE)}/nets-000-009.csv": b"mine"}


# Errors of one line


def test_damage_is_noticed_before_it_spreads(ours, theirs, store, capsys):
    assert main(["push", store, label(SOURCE)]) == 0
    files, root = fsspec.core.url_to_fs(store)
    files.pipe_file(f"{root}/{label(SOURCE)}/nets-000-009.csv", b"damaged")
    error = refusal(capsys, "pull", store, label(SOURCE), "--directory", theirs)
    assert "it was damaged and is not kept" in error
    assert not any("csv" in name or "manifest" in name for name in contents(theirs))
    files.rm_file(f"{root}/{label(SOURCE)}/nets-000-009.csv")
    error = refusal(capsys, "pull", store, label(SOURCE), "--directory", theirs)
    assert "nets-000-009.csv is missing, but its manifest is there" in error
    (ours / label(PRIOR) / "vae-7x7.csv").write_text("damaged")
    assert "not as it was written" in refusal(capsys, "push", store, label(PRIOR))
    assert not any(name.startswith("priors") for name in stored(store))


def test_what_is_no_store_is_refused(ours, theirs, tmp_path, capsys, absent):  # noqa: F811
    version = label(PRIOR)
    assert "Protocol not known" in refusal(capsys, "push", "s4://bucket", version)
    absent("s3fs")
    error = refusal(capsys, "push", "s3://user:secret@bucket", version)
    assert error == "dwp: s3://user:…@bucket: it needs s3fs; pip install s3fs\n"
    assert "there is no such folder" in refusal(capsys, "push", tmp_path / "nowhere", version)
    assert not (tmp_path / "nowhere").exists()
    assert f"{version!r} is no version in" in refusal(capsys, "pull", tmp_path / "nowhere", version)
    assert "chain" in refusal(capsys, "push", "simplecache::memory://x", version)
    (tmp_path / "store").mkdir()
    error = refusal(capsys, "pull", tmp_path / "store", "--directory", theirs)
    assert "nothing of this configuration is there" in error
    for name in ("../../etc", "priors/..", "", "*"):
        assert "is no version; expected" in refusal(capsys, "pull", tmp_path / "store", name)
    (tmp_path / "file").write_text("")
    assert "there is no such folder" in refusal(capsys, "push", tmp_path / "file", version)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_without_permission_is_refused(ours, tmp_path, capsys):
    (tmp_path / "store").mkdir(mode=0o500)
    assert "choose another folder" in refusal(capsys, "push", tmp_path / "store", label(PRIOR))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Access Denied"), "no permission; check the credentials"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket or folder"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "or ask for a larger quota"),
        (NotImplementedError(), "this file system cannot do that"),
        (RuntimeError("of a library\nin two lines"), "RuntimeError: of a library in two lines"),
    ],
)
def test_errors_of_file_systems_are_one_line(ours, monkeypatch, capsys, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(MemoryFileSystem, "put_file", fail)
    assert message in refusal(capsys, "push", "memory://store", label(PRIOR))


def test_a_web_server_is_a_store_to_pull_from(ours, theirs, tmp_path, capsys):
    (tmp_path / "store").mkdir()
    assert main(["push", str(tmp_path / "store"), label(PRIOR)]) == 0
    words = [label(PRIOR), "--directory", theirs]
    with serve(tmp_path / "store") as server:
        server.faults = {f"/{label(PRIOR)}/vae-7x7.csv": 503}
        assert "vae-7x7.csv" in refusal(capsys, "pull", server.url, *words)
        server.faults = {f"/{label(PRIOR)}/vae-7x7.csv": "truncate"}
        assert "vae-7x7.csv" in refusal(capsys, "pull", server.url, *words)
        server.faults = {}
        assert main(["pull", server.url, *map(str, words)]) == 0
    assert contents(theirs / "results") == contents(tmp_path / "store")
    assert "vae-7x7.csv" in "".join(contents(theirs))


# Hostile stores


@pytest.fixture
def shelf(ours, tmp_path):
    """Return the folder of a prior in a store of files."""
    (tmp_path / "store").mkdir()
    assert main(["push", str(tmp_path / "store"), label(PRIOR)]) == 0
    return tmp_path / "store" / label(PRIOR)


def test_links_that_leave_the_store_are_not_followed(shelf, theirs, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_bytes((shelf / "vae-7x7.csv").read_bytes())
    (shelf / "vae-7x7.csv").unlink()
    (shelf / "vae-7x7.csv").symlink_to(secret)
    words = ["pull", tmp_path / "store", label(PRIOR), "--directory", theirs]
    assert "is a link that leaves the store" in refusal(capsys, *words)
    (shelf / "vae-7x7.csv").unlink()
    os.mkfifo(shelf / "vae-7x7.csv")
    assert "is no file" in refusal(capsys, *words)
    (tmp_path / "outside").mkdir()
    (tmp_path / "store" / "source").symlink_to(tmp_path / "outside")
    assert "is a link that leaves" in refusal(capsys, "push", tmp_path / "store", label(SOURCE))
    assert not any((tmp_path / "outside").iterdir())


def test_results_are_not_pulled_through_links(shelf, theirs, tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (theirs / "results" / "priors").mkdir(parents=True)
    (theirs / "results" / label(PRIOR)).symlink_to(tmp_path / "outside")
    error = refusal(capsys, "pull", tmp_path / "store", label(PRIOR), "--directory", theirs)
    assert "is a link; results are pulled into folders only" in error
    assert not any((tmp_path / "outside").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "../vae-7x7.csv",
        "/etc/x",
        "other.csv",
        ".vae-7x7.csv",
        "vae-7x7.log",
        "checkpoints/vae-7x7.pt",
        "a/vae-7x7.csv",
    ],
)
def test_a_manifest_that_lists_files_of_others_is_refused(shelf, theirs, tmp_path, capsys, name):
    manifest = shelf / "vae-7x7.manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = sha256(shelf / "vae-7x7.csv")
    manifest.write_text(json.dumps(content))
    error = refusal(capsys, "pull", tmp_path / "store", label(PRIOR), "--directory", theirs)
    assert repr(name) in error
    assert contents(theirs) == {}


def test_a_manifest_of_another_version_is_refused(shelf, theirs, tmp_path, capsys):
    other = tmp_path / "ours" / "results" / label(OTHER_PRIOR) / "vae-7x7.manifest.json"
    shutil.copy(other, shelf / "vae-7x7.manifest.json")
    error = refusal(capsys, "pull", tmp_path / "store", label(PRIOR), "--directory", theirs)
    assert f"is of {label(OTHER_PRIOR)}, not of {label(PRIOR)}" in error
    assert contents(theirs) == {}
    assert artifact_store.read()
