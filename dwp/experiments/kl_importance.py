"""The KL estimate by number of importance samples, the K of a VAE's bound on log p(w).

The setting is K. All seeds are of one network and differ in the noise alone: the mean over
seeds is the upper bound on KL(q || prior), which falls with K, and the spread is that of one
estimate. A prior whose density is exact has the same bound for every K.
"""

from dwp.experiments import _kl
from dwp.experiments.base import Task
from dwp.priors.base import KLEstimator

AXIS = "importance_samples"
OPTIONS = {**_kl.OPTIONS, AXIS: _kl.counts(description="a list of numbers of samples")}
METHOD = {**_kl.METHOD, **_kl.ONE_NETWORK}
REQUIRED = _kl.REQUIRED


def run(task: Task) -> list[dict]:
    """Return one estimate from all kernels, see `_kl.estimate`."""
    samples = task.settings["posterior_samples"]
    return _kl.estimate(task, KLEstimator(None, samples, int(task.setting)), network=0)
