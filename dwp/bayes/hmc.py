"""Hamiltonian Monte Carlo for a posterior whose prior is a standard normal."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dwp.errors import InputError

Point = dict[str, Tensor]
"""Coordinates by name, tensors of any shape."""

MAX_STEP = 0.5
"""Largest step size, in radians."""


@dataclass(frozen=True)
class HMC:
    """Settings of Hamiltonian Monte Carlo."""

    trajectory: float = 0.7
    """Mean length of a trajectory, in radians: under the prior alone, π/2 makes an independent draw."""
    acceptance: float = 0.8
    """Acceptance probability that the step size is adapted to."""
    step_size: float = 0.03
    """Step size before its adaptation, in radians."""

    def __post_init__(self) -> None:
        for name, high in (("trajectory", math.inf), ("acceptance", 1.0), ("step_size", MAX_STEP)):
            value = getattr(self, name)
            if not 0 < value < high:
                raise InputError(f"HMC: {name} is {value}; expected a number between 0 and {high}")


DEFAULTS = HMC()


class Chain:
    """A Markov chain that leaves N(x; 0, I)·exp(-U(x)) invariant.

    The motion under the normal is a rotation of position and momentum, which is computed exactly; only the
    potential U is discretised (Beskos et al. 2011, "Hybrid Monte Carlo on Hilbert spaces"). So the step
    size depends on U and not on the number of dimensions. Lengths of trajectories vary by a fifth, against
    resonance. Random numbers come from PyTorch's default generator of the device.

    Args:
        potential: U, a differentiable function from a point to a scalar, in nats.
        start: the first point.
        settings: see `HMC`.

    Raises:
        InputError: the potential is not finite at the first point.
    """

    def __init__(self, potential: Callable[[Point], Tensor], start: Point, settings: HMC = DEFAULTS) -> None:
        self.potential, self.settings = potential, settings
        self.step_size = settings.step_size
        self.adaptations = 0
        self.gradients = 0
        """Evaluations of the potential's gradient so far."""
        self._move_to(start)
        if not math.isfinite(self.value):
            # No trajectory would ever be accepted.
            raise InputError(
                f"HMC: the negative log posterior is {self.value} at the start; expected a finite number: "
                "check the images, and the initial weights of the network"
            )

    def _move_to(self, point: Point) -> None:
        self.point = point
        self.value, self.force = self._evaluate(point)

    def _evaluate(self, point: Point) -> tuple[float, Point]:
        """Return the potential and its negative gradient."""
        inputs = {name: tensor.detach().requires_grad_() for name, tensor in point.items()}
        value = self.potential(inputs)
        gradient = torch.autograd.grad(value, list(inputs.values()))
        self.gradients += 1
        return float(value.detach()), {name: -slope for name, slope in zip(inputs, gradient, strict=True)}

    def advance(self, *, adapt: bool) -> float:
        """Move along one trajectory, or stay if it is rejected; return its acceptance probability.

        Args:
            adapt: change the step size towards the wanted acceptance; only before samples are kept, since
                it makes the chain inhomogeneous.
        """
        device = next(iter(self.point.values())).device
        stretch, threshold = torch.rand(2).tolist()
        length = self.settings.trajectory * (0.8 + 0.4 * stretch)
        steps = max(1, round(length / self.step_size))
        momentum = {
            name: torch.randn(x.shape, dtype=x.dtype, device=device) for name, x in self.point.items()
        }
        before = self.value + _energy(self.point, momentum)
        point, value, force = self.point, self.value, self.force
        cosine, sine = math.cos(self.step_size), math.sin(self.step_size)
        for _ in range(steps):
            momentum = {name: p + 0.5 * self.step_size * force[name] for name, p in momentum.items()}
            turned = {name: cosine * x + sine * momentum[name] for name, x in point.items()}
            momentum = {name: cosine * p - sine * point[name] for name, p in momentum.items()}
            point = turned
            value, force = self._evaluate(point)
            momentum = {name: p + 0.5 * self.step_size * force[name] for name, p in momentum.items()}
            if not math.isfinite(value):
                break
        gain = before - value - _energy(point, momentum)
        # A potential that is not finite rejects the trajectory.
        probability = math.exp(min(0.0, gain)) if math.isfinite(gain) else 0.0
        if threshold < probability:
            self.point, self.value, self.force = point, value, force
        if adapt:
            self.adaptations += 1
            change = (probability - self.settings.acceptance) / math.sqrt(self.adaptations)
            self.step_size = min(MAX_STEP, self.step_size * math.exp(change))
        return probability

    def state_dict(self) -> dict:
        """Return what `load_state_dict` needs to continue, but for the state of the generators."""
        facts = {name: getattr(self, name) for name in ("step_size", "adaptations", "gradients")}
        return {"point": self.point, **facts}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a state; positions move to the chain's device."""
        device = next(iter(self.point.values())).device
        self._move_to({name: x.to(device) for name, x in state["point"].items()})
        for name in ("step_size", "adaptations", "gradients"):
            setattr(self, name, state[name])


def _energy(point: Point, momentum: Point) -> float:
    """Return the negative log density of both standard normals, in nats, up to a constant."""
    # In double precision, since it is a small difference of large sums.
    return 0.5 * sum(float(x.double().square().sum()) for part in (point, momentum) for x in part.values())
