"""Figures of the report, each a function (results, plot, **options) -> Matplotlib figure.

For a figure of an experiment, `results` is an `ExperimentResults`, otherwise the `Results` of the run.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from dwp.report.figures import (
    comparison,
    compression,
    experiments,
    findings,
    predictions,
    priors,
    recurrent,
    source,
)

_MODULES = (experiments, compression, recurrent, findings, predictions, priors, comparison, source)


def find(name: str) -> Callable[..., Figure]:
    """Return a figure function by name, from the first module of this package that has it."""
    return next(getattr(module, name) for module in _MODULES if hasattr(module, name))
