"""KL estimates by size m of the random subset of each layer's kernels.

The axis is m. All seeds use the same network and differ in the noise and in the chosen kernels:
the mean over seeds is the same for every m, since the estimate is unbiased, and the spread grows
as m falls. A prior with a closed form uses all kernels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwp.experiments._kl_settings import KL
from dwp.experiments._kl_settings import OneNetworkMethod as Method
from dwp.experiments._kl_settings import Settings as KLSettings
from dwp.experiments.base import METHODS, Count, Experiment, Figure
from dwp.settings import setting

if TYPE_CHECKING:
    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings(KLSettings):
    """Settings of the KL by subset of kernels."""

    kernel_subset: tuple[Count, ...] = setting(
        "numbers m of random kernels per layer in an estimate",
        min_length=1,
        unique=True,
    )
    importance_samples: int = setting("K of a VAE's importance-weighted bound on log p(w)", ge=1)
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Return one estimate from m kernels of each layer, see `_kl.estimate`."""
    from dwp.experiments import _kl
    from dwp.priors.base import KLEstimator

    settings = task.settings
    estimator = KLEstimator(int(task.setting), settings.posterior_samples, settings.importance_samples)
    return _kl.estimate(task, estimator, network=0)


EXPERIMENT = Experiment(
    title="KL estimates by subset of kernels",
    axis="kernel_subset",
    axis_label="subset size m",
    settings=Settings,
    method=Method,
    metrics=(KL,),
    figures=(
        Figure(
            caption="kl_subset",
            draw="by_setting",
            options={"change_from": max},
        ),
    ),
    run=run,
)
