"""Training schedule: steps, learning rate and precision; checked without PyTorch."""

import math
from dataclasses import dataclass
from typing import Literal

from dwp.errors import InputError
from dwp.settings import check, setting

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Training by Adam; exactly one of `steps` and `epochs` is given."""

    lr: float = setting("learning rate", gt=0)
    steps: int | None = setting("number of steps, or null if `epochs` is given", None, ge=1)
    epochs: int | None = setting("passes over the training set, or null if `steps` is given", None, ge=1)
    batch: int | None = setting("minibatch size; null: the full batch", None, ge=1)
    decay: Literal["linear", "constant"] = setting(
        "the learning rate falls linearly to zero, or stays constant", "linear"
    )
    precision: Precision = setting(
        "precision of matrix products; auto: the precision of the configuration",
        "auto",
    )

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError(
                f"schedule: give steps or epochs, the other null; they are {self.steps} and {self.epochs}"
            )
        check("schedule", Schedule, vars(self))

    def total_steps(self, examples: int) -> int:
        """Return the number of steps for a training set of `examples` examples."""
        if self.epochs is not None:
            return self.epochs * self.steps_per_epoch(examples)
        assert self.steps is not None
        return self.steps

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of steps in an epoch (the last batch may be smaller)."""
        return math.ceil(examples / (self.batch or examples))

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * (1 - step / total) if self.decay == "linear" else self.lr
