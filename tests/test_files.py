"""Checksums, and files that are written completely or not at all."""

import hashlib
import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from dwp.files import atomic_write, sha256
from dwp.pipeline.latest_links import link_latest
from dwp.pipeline.provenance import Artifact
from dwp.training.checkpoints import Checkpoint


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_whole_writes_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "f.csv"
    with atomic_write(path) as temporary:
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (path.parent, ".csv")
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "f"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    code = (
        "import os, sys\nfrom dwp.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n    temporary.write_text('half')\n    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == 9
    assert path.read_text() == "old"


def test_the_umask_decides_about_permissions(tmp_path):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            with atomic_write(tmp_path / "f") as temporary:
                temporary.write_text("")
        finally:
            os.umask(before)
        assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_readers_see_the_old_or_the_new_file(tmp_path):
    path, sizes = tmp_path / "f", (200_000, 300_000)
    path.write_bytes(b"0" * sizes[0])
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            for _ in range(10):
                file.write(b"%d" % (number % 2) * (sizes[number % 2] // 10))
                file.flush()
        time.sleep(0.001)
    stop.set()
    reader.join()
    assert seen <= {(size, 1) for size in sizes}
    assert seen


@pytest.fixture
def calls(monkeypatch):
    """Return a list that grows with each rename, by its target, and each flush, by its file or folder."""
    found, replace, fsync = [], os.replace, os.fsync

    def replaced(source, target, **options):
        replace(source, target, **options)
        found.append(("rename", os.path.realpath(os.path.dirname(target)), os.path.basename(target)))

    def flushed(descriptor):
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            found.append(("flush", path, ""))

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", flushed)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_folder_is_flushed_after_a_file_was_moved_into_it(tmp_path, monkeypatch, calls):
    folder = str(tmp_path / "a" / "b")
    with atomic_write(tmp_path / "a" / "b" / "f") as temporary:
        temporary.write_text("new")
    # The folders that were made are new names as well.
    expected = [("rename", folder, "f"), *(("flush", str(f), "") for f in (folder, tmp_path / "a", tmp_path))]
    assert calls == expected
    calls.clear()
    with atomic_write(tmp_path / "a" / "b" / "f") as temporary:
        temporary.write_text("newer")
    assert calls == expected[:2]

    calls.clear()
    checkpoint = Checkpoint(tmp_path / "c.pt", "one")
    checkpoint.save({})
    assert Checkpoint(tmp_path / "c.pt", "another").load() is None
    here = str(tmp_path)
    assert calls == [
        ("rename", here, "c.pt"),
        ("flush", here, ""),
        ("rename", here, "c.aside"),
        ("flush", here, ""),
    ]
    calls.clear()
    checkpoint.save({})
    calls.clear()
    checkpoint.remove()
    assert calls == [("flush", here, "")]

    calls.clear()
    monkeypatch.chdir(tmp_path)
    artifact = Artifact("source", {})
    (tmp_path / artifact.folder).mkdir(parents=True)
    link_latest([artifact])
    latest = str(tmp_path / "results" / "latest")
    assert calls[:2] == [("rename", latest, "source"), ("flush", latest, "")]
