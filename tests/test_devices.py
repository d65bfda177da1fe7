"""Devices and precision: the choice, the spread of jobs over several GPUs, and refusals."""

import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from dwp.errors import InputError
from dwp.nn import precision
from dwp.nn.precision import choose_precision
from dwp.pipeline import gpu_slots
from dwp.training import devices

CPU = torch.device("cpu")

# Takes a slot, prints its index, and keeps it until told to end.
JOB = """
import sys; from pathlib import Path; from dwp.pipeline.gpu_slots import take_slot
print(take_slot(sys.argv[2:], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(tmp_path):
    """Start a process that takes a slot on one of some GPUs; return it and the index of the GPU."""
    running = []

    def start(*names):
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(tmp_path / "slots"), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_jobs_spread_over_gpus_and_leave_room_when_they_die(job):
    names = ("one", "two", "three")
    jobs = [job(*names) for _ in range(7)]
    assert Counter(place for _, place in jobs) == {0: 3, 1: 2, 2: 2}
    # A killed job holds no slot.
    for process, place in jobs:
        if place == 2:
            process.kill()
            process.wait()
    assert [job(*names)[1] for _ in range(3)] == [2, 2, 1]


def test_processes_that_see_different_gpus_count_the_same_jobs(job):
    assert [job("one", "two")[1] for _ in range(2)] == [0, 1]
    assert job("two", "three")[1] == 1
    assert job("three", "four")[1] == 1


def test_of_several_gpus_the_least_used_becomes_current(monkeypatch, tmp_path):
    current = []
    monkeypatch.setattr(gpu_slots.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}")
    )
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [gpu_slots.choose_device(name) for name in ("cuda", "auto")] == [
        torch.device("cuda", 0),
        torch.device("cuda", 1),
    ]
    assert current == [0, 1]
    # With a single GPU there is no choice.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpu_slots.choose_device("auto") == torch.device("cuda")


def test_the_library_leaves_the_choice_among_gpus_to_its_caller(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "message"),
    [("tpu", "'tpu' is not known"), ("cuda", "'cuda' was asked for, but none answers"), ("mps", "'mps' was")],
)
def test_devices_that_do_not_answer_are_refused(monkeypatch, name, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        devices.choose_device(name)


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_auto_is_the_best_device_there_is(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert devices.choose_device("auto") == torch.device(expected)
    assert devices.choose_device("cpu") == CPU


@pytest.fixture
def unmeasured(tmp_path, monkeypatch):
    """No precision is chosen yet, nor after the test."""
    monkeypatch.setenv("DWP_CACHE", str(tmp_path))
    precision._bfloat16_is_faster.cache_clear()
    yield
    precision._bfloat16_is_faster.cache_clear()


@pytest.mark.parametrize(("faster", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_the_faster_precision(unmeasured, monkeypatch, faster, expected):
    monkeypatch.setattr(precision, "is_faster", lambda *_: faster)
    assert choose_precision("auto", CPU) == expected


def test_auto_is_measured_in_any_mode(unmeasured, tmp_path):
    with torch.inference_mode():
        assert choose_precision("auto", CPU) in (torch.bfloat16, torch.float32)
    assert len(list(tmp_path.glob("autotuning/*"))) == 1


def test_precision():
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16
    for name in ("float16", "double", "float64"):
        with pytest.raises(InputError, match=f"precision: '{name}' is not known"):
            choose_precision(name, CPU)
