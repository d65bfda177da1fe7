"""The training loop: schedule, minibatches, determinism, refusals."""

import math

import pytest
import torch
from torch import nn
from training_samples import CPU, FAST, Point, assert_same, noisy_run

from dwp.errors import InputError
from dwp.nn.precision import autocast
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

# Schedule


@pytest.mark.parametrize(
    ("schedule", "examples", "per_epoch", "total"),
    [
        (Schedule(lr=1, epochs=3, batch=4), 10, 3, 9),
        (Schedule(lr=1, epochs=3, batch=5), 10, 2, 6),
        (Schedule(lr=1, epochs=7), 10, 1, 7),
        (Schedule(lr=1, epochs=2, batch=100), 10, 1, 2),
        (Schedule(lr=1, steps=5, batch=4), 10, 3, 5),
    ],
)
def test_schedule_counts_steps(schedule, examples, per_epoch, total):
    assert schedule.steps_per_epoch(examples) == per_epoch
    assert schedule.total_steps(examples) == total


def test_rates():
    assert [Schedule(lr=2, steps=4).rate(step, 4) for step in range(5)] == [2, 1.5, 1, 0.5, 0]
    assert {Schedule(lr=2, steps=4, decay="constant").rate(step, 4) for step in range(4)} == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "steps or epochs.*None and None"),
        ({"steps": 3, "epochs": 2}, "steps or epochs.*3 and 2"),
        ({"steps": 3, "decay": "cosine"}, "decay: 'cosine' is not known; use one of linear, constant"),
    ],
)
def test_schedule_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        Schedule(lr=0.1, **arguments)


# Minimisation


def test_fit_finds_the_minimum_of_a_quadratic():
    targets = torch.tensor([[1.0, -2.0], [3.0, 0.0], [5.0, 8.0]], dtype=torch.float64)
    point = Point(0.0, 0.0)

    def loss(batch):
        value = (point.at - batch).square().sum(1).mean()
        return value, {"distance": value}

    rows = fit(point, loss, (targets,), Schedule(lr=0.1, steps=400), seed=0)
    torch.testing.assert_close(point.at.detach(), targets.mean(0), atol=1e-3, rtol=0)
    least = (targets - targets.mean(0)).square().sum(1).mean().item()
    assert [row["step"] for row in rows] == [400]
    assert rows[0]["metric"] == "distance"
    assert rows[0]["value"] == pytest.approx(least, abs=1e-4)


@pytest.mark.parametrize("decay", ["linear", "constant"])
def test_fit_follows_the_schedule(decay):
    # Under a constant gradient Adam moves by exactly the learning rate.
    point, schedule = Point(0.0), Schedule(lr=0.3, steps=7, decay=decay)
    fit(point, lambda _: (point.at.sum(), {}), (torch.zeros(4),), schedule, seed=0)
    way = sum(schedule.rate(step, 7) for step in range(7))
    assert point.at.item() == pytest.approx(-way, rel=1e-6)


def test_parameters_without_gradient_stay():
    point = Point(1.0)
    point.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
    fit(point, lambda _: ((point.at * point.fixed).sum(), {}), (torch.zeros(2),), FAST, seed=0)
    assert point.fixed.tolist() == [1, 1, 1]
    assert point.at.item() != 1


def test_rows_are_in_order_and_complete():
    point = Point(1.0)

    def loss(_):
        value = point.at.square().sum()
        return value, {"a": value, "b": 2 * value}

    rows = fit(
        point,
        loss,
        (torch.zeros(4),),
        Schedule(lr=0.1, steps=5),
        seed=0,
        evaluate=lambda: {"c": 1.0},
        every=2,
    )
    assert [(row["step"], row["metric"]) for row in rows] == [
        (0, "c"),
        *[(step, metric) for step in (2, 4, 5) for metric in "abc"],
    ]
    last = fit(point, loss, (torch.zeros(4),), Schedule(lr=0.1, steps=5), seed=0, evaluate=lambda: {"c": 1.0})
    assert [(row["step"], row["metric"]) for row in last] == [(5, "a"), (5, "b"), (5, "c")]


# Minibatches


def batches(seed, schedule, examples=10):
    point, seen = Point(1.0), []

    def loss(index, twin):
        assert torch.equal(index * 2, twin), "tensors of one minibatch must be indexed alike"
        seen.append(index.tolist())
        return point.at.sum(), {}

    index = torch.arange(examples)
    fit(point, loss, (index, index * 2), schedule, seed=seed)
    return seen


def test_every_epoch_sees_every_example_once():
    seen = batches(0, Schedule(lr=0.1, epochs=4, batch=4))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 4
    epochs = [[i for batch in seen[first : first + 3] for i in batch] for first in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_minibatches_depend_on_the_seed_alone():
    schedule = Schedule(lr=0.1, steps=5, batch=4)
    assert batches(0, schedule) == batches(0, schedule)
    assert batches(0, schedule) != batches(1, schedule)


@pytest.mark.parametrize("batch", [None, 10, 99])
def test_the_full_batch_is_not_shuffled(batch):
    assert batches(0, Schedule(lr=0.1, steps=2, batch=batch)) == [list(range(10))] * 2


# The best evaluation


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 3.0, 2.0, 1.0], 1), ([5.0, 3.0, 2.0, 5.0], 0), ([0.0, 1.0, math.nan, 3.0], 3)],
    ids=["in the middle", "the earliest of equals", "not a number is never best"],
)
def test_the_model_goes_back_to_its_best_evaluation(values, expected):
    def run(best):
        point, found, states = Point(1.0), iter(values), []

        def evaluate():
            states.append(point.at.item())
            return {"score": next(found), "other": -1.0}

        schedule = Schedule(lr=0.1, steps=6, decay="constant")
        rows = fit(
            point,
            lambda _: (point.at.sum(), {}),
            (torch.zeros(2),),
            schedule,
            seed=0,
            evaluate=evaluate,
            every=2,
            best=best,
        )
        return point.at.item(), states, rows

    at, states, rows = run("score")
    assert len(set(states)) == 4
    assert at == states[expected]
    last, _, same = run(None)
    assert last == states[-1]
    assert str(rows) == str(same)


# Determinism


def test_same_seed_same_bytes_and_the_global_generator_is_left_alone():
    torch.manual_seed(11)
    first = noisy_run(seed=3)
    after = torch.rand(3)
    torch.manual_seed(12)
    assert_same(first, noisy_run(seed=3))
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(3))
    other = noisy_run(seed=4)
    assert not torch.equal(first[0]["0.weight"], other[0]["0.weight"])
    assert first[1] != other[1]


# Refusals


@pytest.mark.parametrize(
    ("value", "term", "name"),
    [(1.0, math.nan, "accuracy"), (1.0, math.inf, "accuracy"), (-math.inf, 1.0, "loss")],
)
def test_numbers_gone_wrong_are_named(value, term, name):
    point, calls = Point(1.0), []

    def loss(_):
        calls.append(1)
        wrong = len(calls) == 4
        return point.at.sum() * (value if wrong else 1), {"accuracy": torch.tensor(term if wrong else 1.0)}

    with pytest.raises(FloatingPointError, match=rf"^net 5: {name} is .*(nan|inf) at step 3 with seed 7;"):
        fit(point, loss, (torch.zeros(4),), FAST, seed=7, label="net 5")
    assert len(calls) == 4


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="'half' is not known"):
        fit(Point(1.0), lambda _: 0, (torch.zeros(2),), Schedule(lr=1, steps=1, precision="half"), seed=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_matrix_products_are_in_that_precision(precision):
    net, seen = nn.Linear(3, 2), []

    def loss(x):
        out = net(x)
        seen.append(out.dtype)
        return out.float().square().mean(), {}

    schedule = Schedule(lr=0.1, steps=2, precision=precision)
    fit(net, loss, (torch.ones(4, 3),), schedule, seed=0)
    assert seen == [getattr(torch, precision)] * 2
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    with autocast(CPU, precision):
        assert net(torch.ones(1, 3)).dtype == getattr(torch, precision)
