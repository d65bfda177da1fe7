"""Choice of the faster implementation: measured once, remembered, and the same in every mode."""

import sqlite3
import subprocess
import sys
import time

import pytest
import torch

from dwp.nn import autotuning, conv, product_conv
from dwp.nn.autotuning import is_faster
from dwp.nn.conv import Conv2d, ConvTranspose2d


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, on disk and in memory."""
    monkeypatch.setenv("DWP_CACHE", str(tmp_path / "cache"))
    product_conv._measured.cache_clear()
    yield tmp_path / "cache"
    product_conv._measured.cache_clear()


def waits(seconds):
    return lambda: time.sleep(seconds)


def never():
    pytest.fail("measured")


def test_the_faster_of_two_is_found():
    assert is_faster("a", waits(0.0), waits(0.01))
    assert not is_faster("b", waits(0.01), waits(0.0))


def test_an_operation_is_measured_once_on_a_machine(monkeypatch):
    assert is_faster("a", waits(0.0), waits(0.01))
    assert is_faster("a", never, never)
    monkeypatch.setattr(autotuning, "processor", lambda: "another")
    assert not is_faster("a", waits(0.01), waits(0.0))
    monkeypatch.undo()


def test_the_first_choice_counts_if_processes_measure_at_once(monkeypatch):
    def measure(*_):
        with monkeypatch.context() as inner:
            inner.setattr(autotuning, "_measure", lambda *_: False)
            assert not is_faster("a", never, never)
        return True

    monkeypatch.setattr(autotuning, "_measure", measure)
    assert not is_faster("a", never, never)


def test_without_a_disk_to_remember_on_each_call_measures(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DWP_CACHE", str(tmp_path / "file"))
    assert is_faster("a", waits(0.0), waits(0.01))
    assert not is_faster("a", waits(0.01), waits(0.0))


def test_a_damaged_database_is_as_good_as_none(cache):
    cache.mkdir()
    (cache / autotuning.DATABASE).write_bytes(b"no database" * 100)
    assert is_faster("a", waits(0.0), waits(0.01))


def test_slow_operations_are_not_repeated_for_long(monkeypatch):
    monkeypatch.setattr(autotuning, "MOST_SECONDS", 0.1)
    calls = []
    assert is_faster("a", lambda: calls.append(time.sleep(0.03)), waits(0.06))
    assert len(calls) <= 3


def operations(cache):
    with sqlite3.connect(cache / autotuning.DATABASE) as database:
        return [row[0] for row in database.execute("SELECT operation FROM choices")]


@pytest.mark.parametrize("lowered", [True, False])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_convolutions_are_measured_in_every_mode_and_training_goes_on(mode, lowered, cache):
    torch.manual_seed(0)
    layers = Conv2d(16, 32, 3), ConvTranspose2d(32, 16, 3)
    with mode(), torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        before = torch.get_rng_state()
        layers[1](layers[0](torch.ones(5, 16, 5, 5)))
        assert torch.equal(torch.get_rng_state(), before)
    between = f"torch.float32 against {torch.bfloat16 if lowered else torch.float32}"
    assert sorted(operations(cache)) == [
        f"convolution, 8 maps 16×5×5 to 32 channels, kernel 3, padding 0, {between}",
        f"transposed convolution, 8 maps 32×3×3 to 16 channels, kernel 3, padding 0, {between}",
    ]
    layers[1](layers[0](torch.ones(5, 16, 5, 5))).sum().backward()
    assert all(p.grad is not None for layer in layers for p in layer.parameters())


@pytest.mark.parametrize("products", [True, False])
def test_a_convolution_is_computed_by_what_was_faster(products, monkeypatch):
    asked = []
    monkeypatch.setattr(product_conv, "is_faster", lambda name, *_: asked.append(name) or products)
    used = []
    monkeypatch.setattr(conv, "convolve", lambda *_, **__: used.append(True))
    Conv2d(16, 32, 3)(torch.ones(5, 16, 5, 5))
    Conv2d(16, 32, 3)(torch.ones(6, 16, 5, 5))
    assert len(asked) == 1
    assert used == [True] * 2 * products


def test_processes_agree():
    code = (
        "import torch; from dwp.nn import product_conv\n"
        "x, weight = torch.ones(9, 16, 5, 5), torch.ones(32, 16, 3, 3)\n"
        "print(product_conv.are_faster(x, weight, 0, transposed=False))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in "abc"]
    found = [run.communicate()[0] for run in runs]
    assert found[0] in ("True\n", "False\n")
    assert found == found[:1] * 3
