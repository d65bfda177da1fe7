"""Settings and metric shared by the experiments on KL(q || prior)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dwp.bayes.settings import FORMS
from dwp.experiments import base
from dwp.experiments.base import ExperimentSettings, Metric, Names
from dwp.settings import setting

GAUSSIAN = tuple(name for name, form in FORMS.items() if form.gaussian)
KL = Metric("kl", "KL(q‖p)", "nats per {part} kernel")


@dataclass(frozen=True, kw_only=True)
class Method(base.KernelMethod):
    """Posterior, prior and initialisation of the kernels."""

    posterior: Literal[GAUSSIAN] = setting(  # type: ignore[valid-type]  # names from one place
        "posterior q around each kernel"
    )
    prior: Names = setting(
        "prior over kernels: the name of one, or names by kernel size or layer, "
        "such as {7x7: vae, conv2: standard_normal}"
    )


@dataclass(frozen=True, kw_only=True)
class OneNetworkMethod(Method):
    """A method of an experiment in which all seeds use the same network."""

    pretrained: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Settings(ExperimentSettings):
    """Settings of every experiment on the KL."""

    std: float = setting("standard deviation of an additive posterior; truncated_alpha has its own", gt=0)
    posterior_samples: int = setting("samples of each kernel in one estimate", ge=1)
