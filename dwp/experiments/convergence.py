"""Convergence: how fast an ordinary network learns from different initialisations (paper, section 5.3).

Methods differ in the initialisation. The axis is the width of the network.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwp.experiments import base
from dwp.experiments.base import METHODS, Experiment, Factor, Figure, KernelMethod, TrainingSettings
from dwp.settings import setting

if TYPE_CHECKING:
    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """Settings of an experiment on initialisations of networks of several widths."""

    width: tuple[Factor, ...] = setting(
        "factors on the channels of every convolution", min_length=1, unique=True
    )
    examples: int | None = setting("training examples; null: all", ge=1)
    methods: dict[str, KernelMethod] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, KernelMethod]") -> list[dict]:
    """Train one network; return its test accuracy and nll by step, and its train_nll."""
    from dwp.experiments import _initialised

    return _initialised.train(task, frozen=False)


EXPERIMENT = Experiment(
    title="Convergence from different initialisations",
    axis="width",
    axis_label="width factor",
    settings=Settings,
    method=KernelMethod,
    metrics=(base.ACCURACY, base.NLL, base.TRAIN_NLL),
    figures=(
        Figure(
            caption="convergence",
            draw="by_step",
            options={"metrics": ("accuracy", "nll")},
        ),
    ),
    run=run,
)
