"""A fault at a write, flush, rename or unlink loses nothing (long form: tests/faults.py)."""

import contextlib
import os
import shutil

import faults
import faulty_disk
import pytest
import torch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
STEMS = ("priors/*/empirical-5x5", "scores/*/scores-5x5", "kl_subset/*/dwp_*")


@pytest.fixture(scope="module")
def run(smoke_run, tmp_path_factory):
    """Return a copy of the finished run."""
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("faults") / "run", symlinks=True)


@pytest.mark.parametrize("stem", STEMS)
def test_nothing_is_lost_or_wrong_after_a_fault(run, monkeypatch, stem):
    monkeypatch.chdir(run)
    torch.set_num_threads(1)
    (manifest,) = (path.relative_to(run) for path in run.glob(f"results/{stem}.manifest.json"))
    found = {manifest: faults.jobs(run)[manifest]}
    points = list(faults.points(run, found, most=7))
    assert {point.kind for point in points} == set(faulty_disk.KINDS)
    rows = [faults.survive(point, run, found[manifest]) for point in points]
    assert [row for row in rows if not faults.sound(row)] == []
    # Most really do interrupt the job.
    assert sum(row["status"] != 0 for row in rows) > len(rows) / 2


def writes(folder):
    """Write two files, one after the other, without flushing the first."""
    (folder / "a").write_text("a" * 10)
    with (folder / "b").open("w") as file:
        file.write("b" * 10)
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "b", folder / "c")


def test_a_power_failure_takes_what_was_not_flushed(tmp_path):
    seen = set()
    for number in range(1, 40):
        folder = tmp_path / str(number)
        folder.mkdir()

        def work(folder=folder, number=number):
            disk = faulty_disk.Disk(folder)
            disk.patch()
            writes(folder)
            disk.calls = number  # of which the random numbers are a function
            disk.lose()
            return 0

        assert faults.forked(work) == 0
        seen.add(tuple((file.name, file.stat().st_size) for file in sorted(folder.iterdir())))
    names = [dict(state) for state in seen]
    assert {state.get("a") for state in names} == {None, 0, 5, 10}
    assert {state.get("b", state.get("c")) for state in names} >= {10}
    assert {"b" in state for state in names} == {"c" in state for state in names} == {True, False}
    assert all(state.get(name, 10) == 10 for state in names for name in "bc")


def test_each_call_is_a_point(tmp_path):
    for number, expected in ((1, set()), (2, {"a"}), (6, {"a", "b"}), (7, {"a", "c"})):
        folder = tmp_path / str(number)
        folder.mkdir()

        def work(folder=folder, number=number):
            faulty_disk.Disk(folder, fails_at=number, kind="death").patch()
            writes(folder)
            return 0

        with contextlib.chdir(folder):
            assert faults.forked(work) == (faulty_disk.DIED if number < 7 else 0)
        assert {file.name for file in folder.iterdir()} == expected
