"""The KL estimate by size of the random subset of a layer's kernels that it is made from.

The setting is the size m. All seeds are of one network and differ in the noise and in the
kernels chosen: the mean over seeds is the same for every m, since the estimate has no bias,
and the spread is what a smaller m costs. A prior with a closed form takes all kernels.
"""

from dwp.experiments import _kl
from dwp.experiments.base import Task
from dwp.priors.base import KLEstimator

AXIS = "kernel_subset"
OPTIONS = {
    **_kl.OPTIONS,
    AXIS: _kl.counts(description="a list of numbers of kernels"),
    "importance_samples": {"$ref": "#/$defs/count"},
}
METHOD = {**_kl.METHOD, **_kl.ONE_NETWORK}
REQUIRED = _kl.REQUIRED


def run(task: Task) -> list[dict]:
    """Return one estimate from m kernels of each layer, see `_kl.estimate`."""
    settings = task.settings
    estimator = KLEstimator(int(task.setting), settings["posterior_samples"], settings["importance_samples"])
    return _kl.estimate(task, estimator, network=0)
