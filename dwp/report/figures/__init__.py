"""Every plot, from tidy tables and tensors; each function returns a Matplotlib Figure.

`style` is a dict: `font_size` (points), `palette` (colours, taken in turn) and `methods`
(all methods of the report, so that one has the same colour in every figure); `dpi` is for
whoever saves. No pyplot and no global settings, so figures can be drawn in any thread.
"""

from dwp.report.figures.experiments import by_setting, by_step
from dwp.report.figures.predictions import cost, outliers, reliability
from dwp.report.figures.priors import kernels, latent_space, prior_training, scores
from dwp.report.figures.source import norms, source_nets

__all__ = [
    "by_setting",
    "by_step",
    "cost",
    "kernels",
    "latent_space",
    "norms",
    "outliers",
    "prior_training",
    "reliability",
    "scores",
    "source_nets",
]
