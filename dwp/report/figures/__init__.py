"""Figures of the report, each a function (results, plot, **options) -> Matplotlib figure.

For a figure of an experiment, `results` is an `ExperimentResults`, otherwise the `Results` of the run.
"""

from dwp.report.figures.experiments import by_setting, by_step
from dwp.report.figures.predictions import cost, reliability
from dwp.report.figures.priors import kernels, latent_space, prior_training, scores
from dwp.report.figures.source import norms, source_nets

__all__ = [
    "by_setting",
    "by_step",
    "cost",
    "kernels",
    "latent_space",
    "norms",
    "prior_training",
    "reliability",
    "scores",
    "source_nets",
]
