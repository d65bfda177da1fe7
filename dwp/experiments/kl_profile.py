"""KL of each prior around scaled kernels, which shows the scale that the prior favours.

The axis is the scale s of q = N(s·w, std²) around kernels w, which are learned ones if `init` draws
them from such a prior; s = 1 leaves them unchanged. Each seed draws its own network. The KL of an
improper prior is known only up to a constant, so only differences within a curve are comparable.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwp.experiments._kl_settings import KL
from dwp.experiments._kl_settings import Method as Method
from dwp.experiments._kl_settings import Settings as KLSettings
from dwp.experiments.base import METHODS, Experiment, Figure, FromZero
from dwp.settings import setting

if TYPE_CHECKING:
    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings(KLSettings):
    """Settings of the KL around scaled kernels."""

    scale: tuple[FromZero, ...] = setting("factors s on the kernels", min_length=1, unique=True)
    importance_samples: int = setting("K of a VAE's importance-weighted bound on log p(w)", ge=1)
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Return one estimate from all kernels, see `_kl.estimate`."""
    from dwp.experiments import _kl
    from dwp.priors.base import KLEstimator

    settings = task.settings
    estimator = KLEstimator(None, settings.posterior_samples, settings.importance_samples)
    return _kl.estimate(task, estimator, network=task.seed, scale=task.setting)


def as_learned(scales: Iterable[float]) -> float:
    """Return the scale nearest to 1, the scale of the unchanged kernels."""
    return min(scales, key=lambda scale: abs(scale - 1))


EXPERIMENT = Experiment(
    title="KL around learned kernels, scaled",
    axis="scale",
    axis_label="scale s",
    settings=Settings,
    method=Method,
    metrics=(KL,),
    figures=(
        Figure(
            caption="kl_profile",
            draw="by_setting",
            options={"change_from": as_learned},
        ),
    ),
    run=run,
)
