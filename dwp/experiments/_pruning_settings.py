"""Settings shared by the experiments that prune networks."""

from dataclasses import dataclass
from typing import Any

from dwp.experiments import base
from dwp.experiments.base import Count, TrainingSettings
from dwp.settings import setting


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Training of a Bayesian network that is pruned."""

    kl_weight: float = setting("weight of the KL divergence after the warm-up; 1: the ELBO", 1.0, ge=0)
    override: dict[str, Any] | None = setting(
        "settings of the schedule or the experiment that are different for this method, such as {lr: 0.01}",
        None,
    )


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """Settings of every experiment that prunes networks."""

    examples: tuple[Count, ...] = setting(
        "numbers of training examples; of text: sequences", min_length=1, unique=True
    )
    warmup: float = setting(
        "share of the steps in which the weight of the KL divergence grows linearly from zero", ge=0, le=1
    )
