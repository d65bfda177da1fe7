"""Reproducible random numbers."""

import contextlib
import itertools

import pytest
import torch
from torch import nn

from dwp.initialisation import build_initialised
from dwp.nn.seeding import derived_seed, seeded
from dwp.nn.spec import Conv, Network

NETWORK = Network(layers=(Conv(conv=2, kernel=3),), batch_norm=False)


def test_within_the_generator_starts_from_the_seed_and_afterwards_it_is_as_before():
    torch.manual_seed(5)
    undisturbed = torch.rand(4)
    torch.manual_seed(5)
    with seeded(7):
        first = torch.rand(2)
    with seeded(7):
        assert torch.equal(torch.rand(2), first)
    with contextlib.suppress(RuntimeError), seeded(8):
        assert not torch.equal(torch.rand(2), first)
        raise RuntimeError
    assert torch.equal(torch.rand(4), undisturbed)


def test_the_numbers_are_those_of_manual_seed():
    with seeded(3):
        drawn = torch.rand(5)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(5))


@pytest.mark.parametrize(
    "draw",
    [lambda: seeded(1).__enter__(), lambda: build_initialised(NETWORK, (1, 8, 8), 2, seed=1)],
    ids=["seeded", "build_initialised"],
)
def test_generators_of_other_devices_are_left_alone(draw, monkeypatch):
    """PyTorch's own `manual_seed` seeds all devices, whose states would not be restored."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    draw()
    assert not seeds


def test_no_two_streams_share_a_seed():
    pairs = itertools.product(range(50), range(50))
    assert len({derived_seed(*pair) for pair in pairs}) == 2500
    assert derived_seed(0, 3) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_generator_of_a_gpu_is_seeded_and_put_back():
    torch.cuda.manual_seed(5)
    undisturbed = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(5)
    with seeded(7, "cuda"):
        first = nn.init.uniform_(torch.empty(2, device="cuda"))
    with seeded(7, "cuda"):
        assert torch.equal(torch.rand(2, device="cuda"), first)
    assert torch.equal(torch.rand(4, device="cuda"), undisturbed)
