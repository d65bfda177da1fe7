"""Small training runs for tests."""

import torch
from torch import nn
from torch.nn import functional

from dwp.training.loop import fit
from dwp.training.schedule import Schedule

CPU = torch.device("cpu")
FAST = Schedule(lr=0.01, steps=20, batch=8, precision="float32")


class Point(nn.Module):
    """One parameter vector."""

    def __init__(self, *values):
        super().__init__()
        self.at = nn.Parameter(torch.tensor(values, dtype=torch.float64))


class Interrupted(Exception):
    pass


def noisy_run(seed=3, checkpoint=None, schedule=FAST, loss_fails=None, evaluate_fails=None, best=None):
    """Train a net with buffers, noise in the loss and in the evaluation; return its state and rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator)
    y = torch.randint(3, (30,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ELU(), nn.Linear(6, 3))
    calls = {"loss": 0, "evaluate": 0}

    def count(what, fails):
        calls[what] += 1
        if calls[what] == fails:
            raise Interrupted

    def loss(images, labels):
        count("loss", loss_fails)
        nll = functional.cross_entropy(net(images + 0.1 * torch.randn_like(images)), labels)
        return nll, {"train_nll": nll}

    def evaluate():
        count("evaluate", evaluate_fails)
        with torch.no_grad():
            return {"noisy": float(net[0](torch.randn(5, 4)).sum())}

    rows = fit(
        net, loss, (x, y), schedule, seed=seed, evaluate=evaluate, every=6, best=best, checkpoint=checkpoint
    )
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}, rows


def assert_same(one, other):
    """Assert that states and rows are equal bit for bit."""
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1] == other[1]
