"""Random features: convolutions stay as initialised, only the rest is trained (paper, section 5.2).

A method is {init}. The setting is the width of the network.
"""

from dwp.experiments.base import Task
from dwp.experiments.convergence import AXIS, METHOD, OPTIONS, train

__all__ = ["AXIS", "METHOD", "OPTIONS", "run"]


def run(task: Task) -> list[dict]:
    """Train classifier and batch norm; return test accuracy and nll by step, and train_nll."""
    return train(task, frozen=True)
