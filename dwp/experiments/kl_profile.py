"""The KL of each prior around kernels as these are shrunk and enlarged: where a prior wants them to go.

The setting is the scale s: q = N(s·w, std²) around kernels w, learned ones if init is from
such a prior; s = 1 is the kernel as it is. Each seed draws its own network. The KL of an
improper prior is known up to a constant only, so that curves compare in their differences.
"""

from dwp.experiments import _kl
from dwp.experiments.base import Task
from dwp.priors.base import KLEstimator

AXIS = "scale"
OPTIONS = {
    **_kl.OPTIONS,
    AXIS: {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "number", "minimum": 0},
        "description": "a list of factors from 0",
    },
    "importance_samples": {"$ref": "#/$defs/count"},
}
METHOD = _kl.METHOD
REQUIRED = _kl.REQUIRED


def run(task: Task) -> list[dict]:
    """Return one estimate from all kernels, see `_kl.estimate`."""
    settings = task.settings
    estimator = KLEstimator(None, settings["posterior_samples"], settings["importance_samples"])
    return _kl.estimate(task, estimator, network=task.seed, scale=task.setting)
