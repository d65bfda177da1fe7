"""Random features: convolutions are frozen at their initialisation, the rest is trained (paper, section 5.2).

Methods differ in the initialisation. The axis is the width of the network.
"""

from typing import TYPE_CHECKING

from dwp.experiments import base
from dwp.experiments.base import Experiment, Figure, KernelMethod
from dwp.experiments.convergence import Settings

if TYPE_CHECKING:
    from dwp.experiments.task import Task


def run(task: "Task[Settings, KernelMethod]") -> list[dict]:
    """Train classifier and batch norm; return test accuracy and nll by step, and train_nll."""
    from dwp.experiments import _initialised

    return _initialised.train(task, frozen=True)


EXPERIMENT = Experiment(
    title="Random features: convolutions fixed, the rest trained",
    axis="width",
    axis_label="width factor",
    settings=Settings,
    method=KernelMethod,
    metrics=(base.ACCURACY, base.NLL, base.TRAIN_NLL),
    figures=(
        Figure(
            caption="random_features",
            draw="by_setting",
            options={"metrics": ("accuracy", "nll")},
        ),
    ),
    run=run,
)
