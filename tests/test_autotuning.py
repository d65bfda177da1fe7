"""Choice of the faster implementation: measured once, remembered, and the same in every mode."""

import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from dwp.nn import autotuning, conv, product_conv
from dwp.nn.autotuning import is_faster
from dwp.nn.conv import Conv2d, ConvTranspose2d


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, on disk and in memory."""
    monkeypatch.setenv("DWP_CACHE", str(tmp_path / "cache"))
    for kept in (product_conv._measured, autotuning._warn):
        kept.cache_clear()
    yield tmp_path / "cache"
    product_conv._measured.cache_clear()


def waiting(first, second):
    return lambda: (lambda: time.sleep(first), lambda: time.sleep(second))


def never():
    pytest.fail("measured")


def test_the_faster_of_two_is_found():
    assert is_faster("a", waiting(0.0, 0.05))
    assert not is_faster("b", waiting(0.05, 0.0))


@pytest.mark.parametrize("another", ["processor", "threads"])
def test_an_operation_is_measured_once_on_a_machine(another, monkeypatch):
    assert is_faster("a", waiting(0.0, 0.05))
    assert is_faster("a", never)
    if another == "processor":
        monkeypatch.setattr(autotuning, "_machine", lambda: "another")
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert not is_faster("a", waiting(0.05, 0.0))


def test_the_first_choice_counts_if_processes_measure_at_once(monkeypatch):
    def measure(*_):
        with monkeypatch.context() as inner:
            inner.setattr(autotuning, "_measure", lambda *_: False)
            assert not is_faster("a", waiting(0, 0))
        return True

    monkeypatch.setattr(autotuning, "_measure", measure)
    assert not is_faster("a", waiting(0, 0))


def test_without_a_disk_to_remember_on_each_call_measures_once_and_says_so(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DWP_CACHE", str(tmp_path / "file"))
    calls = []
    for found in (True, False):
        monkeypatch.setattr(autotuning, "_measure", lambda *_, found=found: calls.append(found) or found)
        assert is_faster("a", waiting(0, 0)) == found
    assert calls == [True, False]
    (message,) = caplog.messages
    assert str(tmp_path / "file") in message


def test_a_choice_that_cannot_be_read_is_measured_again(cache):
    assert is_faster("a", waiting(0.0, 0.05))
    (file,) = (cache / autotuning.FOLDER).iterdir()
    file.unlink()
    file.mkdir()
    assert not is_faster("a", waiting(0.05, 0.0))


def test_without_a_home_each_call_measures(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(autotuning, "cache_folder", homeless)
    assert is_faster("a", waiting(0.0, 0.05))


def test_without_a_thread_pytorch_computes(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as inner:
        inner.setattr(threading.Thread, "start", refused)
        assert not is_faster("a", never)
    assert is_faster("a", waiting(0.0, 0.05))


def test_what_cannot_be_computed_is_not_faster():
    def fails():
        raise RuntimeError("not implemented for 'BFloat16'")

    assert not is_faster("a", lambda: (fails, lambda: None))
    assert is_faster("b", lambda: (lambda: None, fails))
    assert not is_faster("c", lambda: (fails, fails))


def test_slow_operations_are_not_repeated_for_long(monkeypatch):
    monkeypatch.setattr(autotuning, "MOST_SECONDS", 0.1)
    calls = []
    is_faster("a", lambda: (lambda: calls.append(time.sleep(0.03)), lambda: time.sleep(0.06)))
    assert len(calls) <= 3


def operations(cache):
    texts = [file.read_text(encoding="utf-8") for file in (cache / autotuning.FOLDER).iterdir()]
    return sorted(text.strip().partition(": ")[2] for text in texts)


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
    assert operations(cache) == [
        f"convolution, 8 maps 16×5×5 to 32 channels, kernel 3, padding 0, {between}",
        f"transposed convolution, 8 maps 32×3×3 to 16 channels, kernel 3, padding 0, {between}",
    ]
    layers[1](layers[0](torch.ones(5, 16, 5, 5))).sum().backward()
    assert all(p.grad is not None for layer in layers for p in layer.parameters())


def test_activations_are_recomputed_though_the_first_time_was_measured():
    layer = Conv2d(16, 32, 3)
    checkpoint(layer, torch.ones(5, 16, 5, 5, requires_grad=True), use_reentrant=False).sum().backward()
    assert layer.weight.grad is not None


def test_a_step_in_which_convolutions_are_measured_is_like_any_other(cache):
    # Autocast keeps the weights that it has cast, and sums their gradients in bfloat16.
    torch.manual_seed(0)
    shared, convolution, x = torch.nn.Linear(8, 8), Conv2d(16, 32, 3), torch.randn(2, 50, 8)

    def gradient():
        with torch.autocast("cpu", torch.bfloat16):
            before = shared(x[0]).square().sum()
            convolution(torch.ones(5, 16, 5, 5))
            loss = before + shared(x[1]).square().sum()
        return torch.autograd.grad(loss, shared.weight)[0]

    first = gradient()
    assert len(operations(cache)) == 1
    assert torch.equal(gradient(), first)


@pytest.mark.parametrize("products", [True, False])
def test_a_convolution_is_computed_by_what_was_faster(products, monkeypatch):
    asked, used = [], []
    monkeypatch.setattr(autotuning, "is_faster", lambda name, _: asked.append(name) or products)
    monkeypatch.setattr(product_conv, "convolve", lambda *_, **__: used.append(True))
    Conv2d(16, 32, 3)(torch.ones(5, 16, 5, 5))
    Conv2d(16, 32, 3)(torch.ones(6, 16, 5, 5))
    assert len(asked) == 1
    assert used == [True] * 2 * products


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("inputs", [1, 16])
def test_float64_layers_under_autocast_stay_in_float64(products, inputs, monkeypatch):
    monkeypatch.setattr(product_conv, "are_faster", lambda *_, **__: products)
    layers = Conv2d(inputs, 8, 3).double(), ConvTranspose2d(8, 4, 3).double()
    x = torch.ones(5, inputs, 7, 7)
    expected = layers[1](layers[0](x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        found = layers[1](layers[0](x.bfloat16()))
    torch.testing.assert_close(found, expected)


def test_where_no_products_exist_nothing_is_measured(monkeypatch, cache):
    monkeypatch.setattr(autotuning, "is_faster", lambda *_: never())
    conv.conv2d(torch.ones(2, 1, 14, 14), torch.ones(3, 1, 5, 5))
    assert not cache.exists()


def test_processes_agree():
    code = (
        "import sys; from dwp.nn import autotuning\n"
        "autotuning._measure = lambda *_: sys.argv[1] == 'True'\n"
        "print(autotuning.is_faster('a', lambda: (None, None)))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, answer], stdout=subprocess.PIPE, text=True)
        for answer in ("True", "False", "True", "False")
    ]
    found = [run.communicate()[0] for run in runs]
    assert found[0] in ("True\n", "False\n")
    assert found == found[:1] * 4
