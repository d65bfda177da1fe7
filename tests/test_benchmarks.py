"""The benchmarks print every row, run the stated code, and disable the stated optimisations."""

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional

import dwp
from benchmarks import (
    ablations,
    accuracy,
    activation_variance,
    gpu,
    measure,
    memory,
    optimisations,
    quality,
    scaling,
    speed,
    startup,
    workloads,
)
from benchmarks.options import Options, read
from benchmarks.workloads import WORKLOADS
from dwp.bayes import layers
from dwp.nn import conv
from dwp.nn.noise import Noise
from dwp.torchvision_import import torchvision_datasets

TINY = read(None, ["--tiny", "precision=float32"])


@pytest.fixture
def here(monkeypatch):
    """Run everything in this process, since each new one takes seconds to start."""

    def process(kept=True):
        return contextlib.nullcontext(lambda function, *arguments: function(*arguments))

    monkeypatch.setattr(measure, "process", process)


def printed(capsys):
    """Return the rows of the tables as lists of cells; each has a cell for each column."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    return [row for row in rows[2:] if row != rows[0] and "---" not in row]


def test_turns_alternate():
    order = []

    def call(name, took):
        order.append(name)
        return took

    found = measure.in_turns({"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}, 3)
    assert "".join(order) == "abbaab"
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_interval_of_student_s_t():
    mean, half = measure.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 / math.sqrt(3)))
    assert math.isnan(measure.interval([1.0])[1])
    assert math.isnan(measure.interval([])[0])


def test_options_are_read_and_refused(capsys):
    options = read(None, ["source_net=[8, 16]", "target_lr=0.01"], "seeds=3 threads=1")
    assert options == Options(source_net=(8, 16), target_lr=0.01, seeds=3, threads=1)
    for words, message in (
        (["sauce_net=3"], "options.sauce_net"),
        (["turns=many"], "options.turns"),
        (["source_net=[8"], "expected"),
        (["only=[vae3]"], "options.only"),
    ):
        with pytest.raises(SystemExit, match=message):
            read(None, words)


def test_a_data_root_without_the_sets_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="has no folder notmnist"):
        speed.main(["--tiny", f"data_root={tmp_path}"])


def test_an_unknown_optimisation_is_refused(here):
    with pytest.raises(SystemExit, match="without: 'fast forms' is not known"):
        speed.main(["--tiny", "without=fast forms"])


def test_memory_is_of_the_work_s_own_process():
    ballast = torch.ones(300 * 2**20 // 4)  # must not be counted
    before = measure.peak()
    with measure.process() as call:
        assert call(measure.seconds, "vae5", "ours", TINY) > 0
        assert 0 < call(measure.peak) < before
    del ballast


def test_speed_prints_every_row(capsys, here):
    speed.main(["--tiny"])
    rows = printed(capsys)
    titles = [workload.title for workload in WORKLOADS.values()]
    whole = [f"whole run: {WORKLOADS[name].title}" for name in ("step", "subset")]
    assert [row[0] for row in rows[1:]] == [*titles, *whole]
    step, evaluation, run = (float(rows[place][2].split()[0].replace(",", "")) for place in (4, 6, 7))
    assert run == pytest.approx(speed.STEPS / step + speed.EVALUATIONS / evaluation, rel=0.02)


def test_gpu_says_that_there_is_none_and_runs_on_the_cpu(capsys, here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(["--tiny"])
    assert capsys.readouterr().out == "No GPU is available: nothing is measured.\n"
    gpu.main(["--tiny", "device=cpu", "only=[vae7]"])
    assert [row[:2] for row in printed(capsys)][1::2] == [["bfloat16", "VAE 7×7"], ["float32", "VAE 7×7"]]


def test_quality_prints_every_row(capsys, here):
    quality.main(["--tiny", "source_accuracy=0", "dwp=[target_steps=2]"])
    rows = printed(capsys)
    metrics = [(title, metric) for _, title, _, metrics in quality.TRAININGS for metric in metrics]
    assert [(row[0], row[1].split()[0]) for row in rows] == metrics
    for row in rows:
        # The recipe's own last value is its target.
        assert row[2].startswith("2 of 2, ")
    assert "–" not in rows[0][3:6]


def test_a_target_is_reached_at_the_first_evaluation_that_meets_it():
    points = [(1.0, {"accuracy": 0.5, "nll": 2.0}), (2.0, {"accuracy": 0.8, "nll": 1.0})]
    assert quality.reached(points, 0.8, "accuracy") == 2.0
    assert quality.reached(points, 2.5, "nll") == 1.0
    assert quality.reached(points, 0.9, "accuracy") is None


def test_seconds_are_compared_over_the_seeds_that_both_sides_reach():
    found = quality.comparison([(4.0, 1.0), (9.0, 1.0)])
    assert found["seconds, recipe"].startswith("6.5 ± ")
    assert found["ratio"].startswith("6 (")  # the geometric mean
    assert set(quality.comparison([]).values()) == {"–"}


def test_the_clock_stops_during_evaluations(monkeypatch):
    """A training of two steps of one second each, with evaluations of ten."""
    now = [0.0]

    def run(after, every):
        assert every == 1
        after()
        for _ in range(2):
            now[0] += 1
            after()

    def evaluate():
        now[0] += 10
        return {"elbo": now[0]}

    monkeypatch.setattr(quality, "timer", lambda: now[0])
    monkeypatch.setattr(measure, "prepare", lambda *_: workloads.Run(run, evaluate, 1, 2))
    assert [seconds for seconds, _ in quality.curve("vae5", "ours", TINY)] == [1, 2]


@pytest.mark.parametrize("side", ["ours", "recipe"])
@pytest.mark.parametrize("name", ["source", "vae7", "vae5", "subset"])
def test_training_is_evaluated_before_between_and_at_the_end(name, side):
    run = measure.prepare(name, side, TINY)
    calls = []
    run.run(lambda: calls.append(run.evaluate()) or {}, run.steps - 1)
    assert len(calls) == 3  # before, after all steps but one, and at the end
    assert all({"accuracy", "nll"} <= found.keys() or "elbo" in found for found in calls)


def test_scaling_prints_every_row(capsys, here, monkeypatch):
    # One after another, since both are in this process.
    monkeypatch.setattr(scaling, "ThreadPoolExecutor", lambda count: ThreadPoolExecutor(1))
    scaling.main(["--tiny"])
    rows = printed(capsys)
    for text, count in (("target_subset", 4), ("vae_kernels", 3), ("source_net", 3), ("target_net", 4)):
        assert sum(row[1].startswith(text) for row in rows) == count
    assert sum("one after another" in row[1] for row in rows) == 6
    assert sum("threads of each" in row[1] for row in rows) >= 2


def test_processes_run_at_the_same_time():
    assert scaling.together("vae7", 2, TINY) > 0


def test_flops_of_a_known_product(monkeypatch):
    layer = torch.nn.Linear(30, 20, bias=False)
    x = torch.randn(10, 30)
    run = workloads.Run(lambda: functional.mse_loss(layer(x), torch.zeros(10, 20)).backward(), amount=2)
    monkeypatch.setattr(measure, "prepare", lambda *_: run)
    assert (
        measure.flops("vae5", TINY) == 2 * 10 * 30 * 20
    )  # forward, and the gradient of the weight; two units


def test_ablations_change_no_result():
    image = workloads.target(TINY).images("test")[:5]
    kept = workloads.source_network(TINY)
    for title in optimisations.OPTIMISATIONS:
        with optimisations.disabled(title):
            model = workloads.source_network(TINY)
            assert all(map(torch.equal, model.parameters(), kept.parameters()))
            torch.testing.assert_close(model(image), kept(image), rtol=1e-4, atol=1e-5)


def test_what_is_disabled_is_off():
    def kinds():
        return [type(module).__name__ for module in workloads.source_network(TINY)]

    disabled, there = optimisations.disabled, kinds()
    assert there.index("MaxPool2d") < there.index("LeakyReLU")
    assert "Crop" in there
    with disabled("pooling before the activation"):
        assert kinds().index("MaxPool2d") > kinds().index("LeakyReLU")
    with disabled("cropping unused pixels"):
        assert "Crop" not in kinds()
    with disabled("channels-last"):
        pooled = conv.MaxPool2d(2)(torch.randn(2, 3, 4, 4, requires_grad=True))
        assert pooled.is_contiguous()
    with disabled(optimisations.FAST_FORMS):
        assert conv._implementation == "pytorch"
        model, prior = workloads.source_network(TINY), workloads.vae(TINY, 5)
        assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
        assert all(weight.is_contiguous() for weight in prior.parameters())
    maps = torch.randn(2, 3, 4, 4)
    assert conv.MaxPool2d(2)(maps).is_contiguous()
    with disabled("pooling without indices"):
        assert not conv.MaxPool2d(2)(maps).is_contiguous()
    with disabled("fused Adam"):
        assert not torch.optim.Adam([torch.zeros(1)], lr=1.0, fused=True).defaults["fused"]
    with disabled("one weight sample for all images"):
        model = workloads.few_shot_network(TINY)
        with layers.predicting(model, Noise.WEIGHTS):
            assert {layer.noise for layer in layers.bayesian_layers(model)} == {Noise.OUTPUTS}
    assert kinds() == there


def test_ablations_print_every_row(capsys, here):
    ablations.main(["--tiny", "precision=float32"])
    rows = [row[1] for row in printed(capsys)]
    for title, (_, affected) in optimisations.OPTIMISATIONS.items():
        assert rows.count(title) == len(affected)


def test_accuracy_prints_every_variant(capsys):
    accuracy.main(["--tiny"])
    rows = printed(capsys)
    assert [tuple(row[:2]) for row in rows] == [
        (WORKLOADS[name].title, variant) for name, variant in accuracy.CASES
    ]
    for row in rows:
        each = [float(value) for value in row[-1].split()]
        assert len(each) == 2
        assert all(0 <= value <= 1 for value in each)


def test_memory_prints_every_row(capsys, here):
    memory.main(["collected=[1000, 2000]"])
    assert [row[0] for row in printed(capsys)] == ["1,000"] * 3 + ["2,000"] * 3


def test_the_kernels_of_the_memory_benchmark_are_read_and_pruned(tmp_path):
    path = memory.write(tmp_path / "dataset.h5", 1000)
    assert dwp.collect(path, 3).shape == (800, 1, 3, 3)
    assert len(dwp.collect(path, 3, most=100)) == 100


def test_startup_prints_every_row(capsys):
    startup.main(["cells=10"])
    rows = printed(capsys)
    assert [row[0].split(",")[0] for row in rows] == ["import dwp", "the same", "snakemake -n"]


def test_activation_variance_prints_every_row_and_draws_a_figure(capsys, tmp_path):
    torchvision_datasets()
    figure = tmp_path / "found.png"
    activation_variance.main(["architectures=[squeezenet1_1]", "draws=1", f"figure={figure}"])
    (row,) = printed(capsys)
    ranges = row[1:-1]
    assert len(ranges) == len((*activation_variance.GAINS, *activation_variance.CONTROLS))
    assert all(" – " in cell for cell in ranges)
    assert figure.stat().st_size > 10_000
