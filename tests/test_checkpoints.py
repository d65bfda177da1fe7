"""Checkpoints: killed trainings resume, damaged and foreign files are set aside, SIGTERM saves."""

import errno
import os
import signal

import pytest
import torch
from training_samples import Interrupted, assert_same, noisy_run

from dwp.training import signals
from dwp.training.checkpoints import Checkpoint
from dwp.training.loop import Progress
from dwp.training.signals import Stopped

# Checkpoints


@pytest.mark.parametrize("best", [None, "noisy"])
@pytest.mark.parametrize(
    "failure",
    [
        {"loss_fails": 1},
        {"loss_fails": 2},
        {"loss_fails": 6},
        {"loss_fails": 7},
        {"loss_fails": 13},
        {"loss_fails": 20},
        {"evaluate_fails": 1},
        {"evaluate_fails": 3},
        {"evaluate_fails": 5},
    ],
    ids=lambda failure: "-at-".join(map(str, *failure.items())),
)
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path, failure, best):
    path = tmp_path / "net.pt"
    with pytest.raises(Interrupted):
        noisy_run(checkpoint=Checkpoint(path, "net", seconds=0), best=best, **failure)
    assert path.exists() == (failure not in ({"loss_fails": 1}, {"evaluate_fails": 1}))
    torch.manual_seed(99)
    checkpoint = Checkpoint(path, "net", seconds=0)
    assert_same(noisy_run(best=best), noisy_run(checkpoint=checkpoint, best=best))
    # Finished work is kept, and loaded instead of repeated, until it is removed.
    again = noisy_run(checkpoint=checkpoint, best=best, loss_fails=1, evaluate_fails=1)
    assert_same(noisy_run(best=best), again)
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_run_may_be_interrupted_again_and_again(tmp_path):
    checkpoint = Checkpoint(tmp_path / "net.pt", "net", seconds=0)
    for _ in range(6):
        with pytest.raises(Interrupted):
            noisy_run(checkpoint=checkpoint, loss_fails=4)
    assert_same(noisy_run(), noisy_run(checkpoint=checkpoint))


def test_a_resumed_run_does_not_repeat_finished_steps(tmp_path):
    checkpoint = Checkpoint(tmp_path / "net.pt", "net", seconds=0)
    with pytest.raises(Interrupted):
        noisy_run(checkpoint=checkpoint, loss_fails=15)
    assert checkpoint.load()["step"] == 14
    noisy_run(checkpoint=checkpoint, loss_fails=7)  # 6 steps were left


def test_checkpoints_keep_their_interval(tmp_path):
    checkpoint = Checkpoint(tmp_path / "net.pt", "net", seconds=3600)
    with pytest.raises(Interrupted):
        noisy_run(checkpoint=checkpoint, loss_fails=15)
    assert not checkpoint.path.exists()


def test_parts_have_files_and_identities_of_their_own(tmp_path):
    checkpoint = Checkpoint(tmp_path / "nets.pt", "nets", seconds=5)
    parts = [checkpoint.of(0), checkpoint.of(1)]
    assert len({part.path for part in [checkpoint, *parts]}) == 3
    assert len({part.identity for part in [checkpoint, *parts]}) == 3
    assert {part.seconds for part in parts} == {5}


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "foreign", "not a dict"])
def test_torn_and_foreign_checkpoints_are_set_aside(tmp_path, damage):
    path = tmp_path / "net.pt"
    with pytest.raises(Interrupted):
        noisy_run(checkpoint=Checkpoint(path, "net", seconds=0), loss_fails=9)
    whole = path.read_bytes()
    if damage == "foreign":
        torch.save({**torch.load(path), "identity": "another net"}, path)
    elif damage == "not a dict":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "garbage": b"no" * 99}[damage])
    damaged = path.read_bytes()
    assert_same(noisy_run(), noisy_run(checkpoint=Checkpoint(path, "net", seconds=0)))
    aside = tmp_path / "net.aside"
    assert aside.read_bytes() == damaged


def test_a_disk_that_fails_costs_no_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "net.pt", "net")
    checkpoint.save({"step": 3})

    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(type(checkpoint.path), "read_bytes", fails)
        with pytest.raises(OSError, match="Input/output"):
            checkpoint.load()
    assert checkpoint.load()["step"] == 3


def test_removing_a_checkpoint_removes_its_parts_and_no_others(tmp_path):
    checkpoint = Checkpoint(tmp_path / "nets-000-003.pt", "nets")
    for name in (
        "nets-000-003",
        "nets-000-003-0",
        "nets-000-003-12",
        "nets-000-003-1-0",
        "nets-000-0031",
        "nets-004-007-4",
    ):
        (tmp_path / f"{name}.pt").touch()
    checkpoint.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"nets-000-0031.pt", "nets-004-007-4.pt"}


# SIGTERM


@pytest.fixture
def sigterm(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signals, "_requested", False)
    signals.on_sigterm()
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_sigterm_finishes_the_step_saves_and_stops(tmp_path, sigterm, monkeypatch):
    checkpoint, steps = Checkpoint(tmp_path / "net.pt", "net", seconds=3600), []

    def update(self, done, update=Progress.update):
        update(self, done)
        steps.append(done)
        if done == 7:
            sigterm()

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", update)
        with pytest.raises(Stopped, match="stopped by SIGTERM: fit"):
            noisy_run(checkpoint=checkpoint)
    assert steps == list(range(1, 8))
    assert checkpoint.load()["step"] == 7
    monkeypatch.setattr(signals, "_requested", False)
    assert_same(noisy_run(), noisy_run(checkpoint=checkpoint))


def test_sigterm_outside_a_fit_stops_at_once(sigterm):
    with pytest.raises(Stopped):
        sigterm()
