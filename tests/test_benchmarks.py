"""The benchmarks print every row, time the stated code, and ablate the stated parts."""

import contextlib
import functools
import json

import pytest
import torch
from torch.nn import functional

import dwp
from benchmarks import (
    ablations,
    accuracy,
    activation_variance,
    memory,
    published,
    scaling,
    timing,
    workloads,
)
from benchmarks.material import Material, Options
from dwp.bayes import layers
from dwp.nn import conv
from dwp.nn.noise import Noise
from dwp.torchvision_import import torchvision_datasets

WORDS = ["--tiny", "--repeats", "1", "--device", "cpu", "--threads", "1"]
EMBEDDED = Options(device="cpu", precision="float32", threads=1, tiny=True)


@pytest.fixture(scope="module")
def material():
    return Material(EMBEDDED)


class SideHere(contextlib.nullcontext):
    """A side of a workload without the process of its own, whose start takes seconds."""

    material = staticmethod(functools.cache(Material))

    def __init__(self, workload, side, options):
        super().__init__(self)
        self.device = self.material(options).device
        self.call, self.amount = getattr(workloads.WORKLOADS[workload], side)(self.material(options))

    def seconds(self):
        return timing.seconds(self.call, self.device)

    def memory(self):
        return timing.peak(self.device), 0


def test_turns_alternate():
    order = []

    def call(name, took):
        order.append(name)
        return took

    found = timing.in_turns([lambda: call("a", 1.0), lambda: call("b", 2.0)], 3)
    assert "".join(order) == "ab" + "abbaab"
    assert found == [[1.0] * 3, [2.0] * 3]


def test_published_prints_every_row(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "Side", SideHere)
    published.main([*WORDS, "--run", "subset", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    for workload in workloads.WORKLOADS.values():
        assert f"| {workload.title} |" in printed
    assert printed.count("(computed)") == 2
    assert "TINY" in printed
    assert "glyphs and digits" in printed
    assert "really run" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["workloads"]) == {*workloads.WORKLOADS, "run_step", "run_subset"}
    parts, run = found["workloads"], found["workloads"]["run_step"]
    for side in ("baseline", "ours"):
        expected = (
            run["steps"] * parts["step"]["seconds"][side]
            + run["evaluations"] * parts["evaluation"]["seconds"][side]
        )
        assert run[side] == pytest.approx(expected)


@pytest.mark.parametrize("which", ["baseline", "ours"])
def test_memory_is_of_the_work_s_own_process(which):
    ballast = torch.ones(300 * timing.MiB // 4)  # must not be counted
    with timing.Side("vae5", which, EMBEDDED) as side:
        assert side.amount > 0
        assert side.seconds() > 0
        peak, began = side.memory()
    assert began < peak < began + ballast.nbytes


def test_a_process_that_ends_is_told_of():
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        timing.Side("nothing", "ours", EMBEDDED)


def test_a_data_root_without_the_sets_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="has no folder notmnist"):
        published.main(["--tiny", "--data-root", str(tmp_path), "--only", "source"])


def test_scaling_prints_every_table(capsys, monkeypatch):
    measure = scaling.throughput

    def throughput(name, count, *others):
        """Measure two processes at a time once; each takes seconds to start."""
        return measure(name, count, *others) if (name, count) == ("source", 2) else 1.0

    monkeypatch.setattr(scaling, "throughput", throughput)
    scaling.main([*WORDS, "--side", "64", "--seconds", "0.1"])
    printed = capsys.readouterr().out
    for title in scaling.TITLES:
        assert title in printed


def test_flops_of_a_known_product():
    layer = torch.nn.Linear(30, 20, bias=False)
    x = torch.randn(10, 30)
    found = scaling.flops(lambda: functional.mse_loss(layer(x), torch.zeros(10, 20)).backward())
    assert found == 2 * 2 * 10 * 30 * 20  # forward, and the gradient of the weight


def test_ablations_change_no_result(material, monkeypatch):
    image = material.target.images("test", material.device)[:5]
    kept = material.few_shot(None).build_initialised(build=material.build)
    for ablation in ablations.ABLATIONS:
        with ablation.away():
            model = material.few_shot(None).build_initialised(build=material.build)
            torch.testing.assert_close(model(image), kept(image), rtol=1e-4, atol=1e-5)


def test_what_is_taken_away_is_away(material):
    def kinds():
        return [
            type(module).__name__
            for module in material.few_shot(None).build_initialised(build=material.build)
        ]

    there = kinds()
    assert there.index("MaxPool2d") < there.index("LeakyReLU")
    assert "Crop" in there
    away = {ablation.title: ablation.away for ablation in ablations.ABLATIONS}
    with away["pooling before the activation"]():
        assert kinds().index("MaxPool2d") > kinds().index("LeakyReLU")
    with away["only the pixels that reach the end"]():
        assert "Crop" not in kinds()
    with away["channels-last, where PyTorch convolves or pools"]():
        pooled = conv.MaxPool2d(2)(torch.randn(2, 3, 4, 4, requires_grad=True))
        assert pooled.is_contiguous()
    with away["convolutions in fewer products"]():
        assert conv._pytorch_only
        model = material.few_shot(None).build_initialised(build=material.build)
        assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    maps = torch.randn(2, 3, 4, 4)
    assert conv.MaxPool2d(2)(maps).is_contiguous()
    with away["pooling without places, where nobody asks for gradients"]():
        pooled = conv.MaxPool2d(2)(maps)
        assert not pooled.is_contiguous()
    with away["fused Adam"]():
        assert not torch.optim.Adam([torch.zeros(1)], lr=1.0, fused=True).defaults["fused"]
    with away["weights sampled once for all images"]():
        model = material.bayesian()
        with layers.predicting(model, Noise.WEIGHTS):
            assert {layer.noise for layer in layers.bayesian_layers(model)} == {Noise.OUTPUTS}
    assert kinds() == there


def test_ablations_print_every_row(capsys, monkeypatch):
    monkeypatch.setattr(ablations, "Side", SideHere)
    ablations.main(WORDS)
    lines = capsys.readouterr().out.splitlines()
    for ablation in ablations.ABLATIONS:
        assert sum(line.startswith(f"| {ablation.title} |") for line in lines) == len(ablation.workloads)


def test_accuracy_prints_every_way(capsys):
    accuracy.main([*WORDS[:1], *WORDS[3:], "--seeds", "2", "--steps", "4", "--source-steps", "2"])
    lines = capsys.readouterr().out.splitlines()
    for workload, how in accuracy.WAYS:
        found = [line for line in lines if line.startswith(f"| {workload} | {how} |")]
        assert len(found) == 1
        each = [float(value) for value in found[0].split("|")[-2].split()]
        assert len(each) == 2
        assert all(0 <= value <= 1 for value in each)


def test_the_kernels_of_the_memory_benchmark_are_read_and_pruned(tmp_path):
    path = memory.write(tmp_path / "dataset.h5", 1000)
    assert dwp.collect(path, 3).shape == (800, 1, 3, 3)
    assert len(dwp.collect(path, 3, most=100)) == 100


def test_activation_variance_prints_every_row_and_draws_a_figure(capsys, tmp_path):
    torchvision_datasets()
    words = ["--architectures", "squeezenet1_1", "--draws", "1", "--seeds", "2", "--steps", "2"]
    activation_variance.main([*words, "--output", str(tmp_path / "found")])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert printed.count("| squeezenet1_1 |") == 2
    assert {row["gain"] for row in found["variance"]} == {
        "He",
        *activation_variance.GAINS,
        *activation_variance.CONTROLS,
    }
    cells = 2 * 2 * 3  # metrics, data sets, widths
    assert printed.count("±") == cells * (5 + 4)  # initialisations, and differences from one of them
    assert {len(row["ratio"]) for row in found["variance"]} == {26}
    assert len(found["training"]) == cells * 5 * 2
    assert (tmp_path / "found.png").stat().st_size > 10_000
