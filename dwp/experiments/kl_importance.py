"""KL estimates by number K of importance samples in a VAE's bound on log p(w).

The axis is K. All seeds use the same network and differ only in the noise: the mean over seeds is
an upper bound on KL(q || prior), which falls with K, and the spread is that of one estimate. A
prior with an exact density has the same bound for every K.
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
    """Settings of the KL by importance samples."""

    importance_samples: tuple[Count, ...] = setting(
        "numbers K of samples in a VAE's importance-weighted bound on log p(w)", min_length=1, unique=True
    )
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Return one estimate from all kernels, see `_kl.estimate`."""
    from dwp.experiments import _kl
    from dwp.priors.base import KLEstimator

    samples = task.settings.posterior_samples
    return _kl.estimate(task, KLEstimator(None, samples, int(task.setting)), network=0)


EXPERIMENT = Experiment(
    title="KL estimates by importance samples",
    axis="importance_samples",
    axis_label="importance samples K",
    settings=Settings,
    method=Method,
    metrics=(KL,),
    figures=(
        Figure(
            caption="kl_importance",
            draw="by_setting",
            options={"change_from": min},
        ),
    ),
    run=run,
)
