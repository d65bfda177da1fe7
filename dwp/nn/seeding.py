"""Reproducible random numbers: derived seeds, and the state of PyTorch's generators."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def derived_seed(seed: int, stream: int) -> int:
    """Return the seed of one stream of random numbers (a member, an epoch), derived from `seed`."""
    # There are fewer streams than this prime, so no two pairs share a derived seed.
    return seed * 1_000_003 + stream


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and of a device while the context is active.

    Their former state is restored afterwards. Generators of other devices are left alone.
    """
    before = rng_state(device)
    try:
        # `torch.manual_seed` would seed every device.
        torch.default_generator.manual_seed(seed)
        match torch.device(device).type:
            case "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            case "mps":
                torch.mps.manual_seed(seed)
        yield
    finally:
        set_rng_state(before, device)


def rng_state(device: torch.device | str) -> list[Tensor]:
    """Return the states of PyTorch's generators of the CPU and of a device, for `set_rng_state`."""
    states = [torch.get_rng_state()]
    match torch.device(device).type:
        case "cuda":
            states.append(torch.cuda.get_rng_state(device))
        case "mps":
            states.append(torch.mps.get_rng_state())
    return states


def set_rng_state(states: list[Tensor], device: torch.device | str) -> None:
    """Restore the states of PyTorch's generators of the CPU and of a device from `rng_state`."""
    torch.set_rng_state(states[0])
    match torch.device(device).type:
        case "cuda":
            torch.cuda.set_rng_state(states[1], device)
        case "mps":
            torch.mps.set_rng_state(states[1])
