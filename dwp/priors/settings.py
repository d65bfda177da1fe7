"""Settings and properties of every kind of prior, readable without PyTorch.

A kind that is not listed here defines its settings in its module, `dwp/priors/<kind>.py`.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import ClassVar, Literal

import dwp.priors
from dwp.errors import InputError, unknown
from dwp.settings import setting
from dwp.training.schedule import Schedule

_kinds: dict[str, type["PriorSettings"]] = {}
# Modules of the package that define no kind for a configuration.
_OTHERS = ("base", "centred", "distributions", "scores", "settings")


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """Base class of the settings of a prior."""

    kind: ClassVar[str] = ""
    """Name of the kind in a configuration, and of its module."""
    fitted: ClassVar[bool] = False
    """Whether the prior is fitted to kernels."""
    trained: ClassVar[bool] = False
    """Whether fitting is training by gradient descent, under a `schedule`."""
    has_density: ClassVar[bool] = True
    """Whether there is a log density, exact or a lower bound."""
    exact: ClassVar[bool] = True
    """Whether the log density is exact; otherwise it is a lower bound in expectation."""
    has_kl: ClassVar[bool] = True
    """Whether the KL divergence from a Gaussian can be computed, at least up to a constant."""
    has_samples: ClassVar[bool] = True
    """Whether the prior can be sampled from."""
    has_codes: ClassVar[bool] = False
    """Whether the prior encodes kernels as latent codes and decodes them."""
    smallest_size: ClassVar[int] = 1
    """The smallest supported kernel size."""

    def __init_subclass__(cls, *, listed: bool = True) -> None:
        """Register the kind; with `listed` false, a configuration or a file cannot name it."""
        if cls.kind and listed:
            _kinds[cls.kind] = cls

    @classmethod
    def check_size(cls, kernel_size: int) -> None:
        """Raise InputError for a kernel size that this kind does not support."""
        if kernel_size < cls.smallest_size:
            raise InputError(
                f"{cls.kind}: kernel size {kernel_size} cannot be built; "
                f"it takes sizes from {cls.smallest_size}"
            )

    @property
    def is_control(self) -> bool:
        """Return whether the prior leaves out the structure of the kernels on purpose."""
        return False

    def check_posterior(self, form: str) -> None:
        """Raise InputError for a form of posterior that is incompatible with these settings."""


@dataclass(frozen=True, kw_only=True)
class TrainedPriorSettings(PriorSettings):
    """Base class of the settings of a prior that is fitted by gradient descent."""

    fitted: ClassVar = True
    trained: ClassVar = True

    schedule: Schedule = setting("training schedule")
    validation_fraction: float = setting(
        "fraction of the training kernels set aside to choose the best epoch; 0: use the last epoch",
        0.0,
        ge=0,
        lt=1,
    )


@dataclass(frozen=True, kw_only=True)
class VAESettings(TrainedPriorSettings):
    """A variational autoencoder over kernels: the deep weight prior."""

    kind: ClassVar = "vae"
    exact: ClassVar = False
    has_codes: ClassVar = True
    smallest_size: ClassVar = 2  # a single weight has no structure to encode

    hidden: int = setting("channels of the hidden layers", ge=1)
    latent: int = setting("dimensions of a kernel's code", ge=1)
    code_prior: Literal["standard_normal", "vamp"] = setting(
        "prior over the codes; vamp: a mixture of the codes of pseudo-inputs (VampPrior)", "standard_normal"
    )
    pseudo_inputs: int = setting("components of the VampPrior; ignored for standard_normal", 50, ge=1)


@dataclass(frozen=True, kw_only=True)
class WhitenedVAESettings(VAESettings):
    """A variational autoencoder over whitened kernels, whose decoder noise has their covariance."""

    kind: ClassVar = "whitened_vae"
    has_codes: ClassVar = False  # posteriors over codes take the decoder's noise to be independent


@dataclass(frozen=True, kw_only=True)
class FlowSettings(TrainedPriorSettings):
    """A normalising flow over kernels."""

    kind: ClassVar = "flow"
    smallest_size: ClassVar = 2  # a single weight leaves nothing to condition on

    transforms: int = setting("coupling transformations", 6, ge=2)
    hidden: int = setting("units of each hidden layer", 128, ge=1)
    coupling: Literal["affine", "spline"] = setting(
        "affine couplings (RealNVP) or rational-quadratic splines", "affine"
    )


@dataclass(frozen=True, kw_only=True)
class FlowMatchingSettings(TrainedPriorSettings):
    """A continuous normalising flow over kernels, trained by flow matching."""

    kind: ClassVar = "flow_matching"

    hidden: int = setting("units of each of the two hidden layers of the velocity field", 128, ge=1)
    ode_steps: int = setting("Runge-Kutta steps of a sample and of a density", 20, ge=1)


@dataclass(frozen=True, kw_only=True)
class PairwiseAugmentedGANSettings(TrainedPriorSettings):
    """A generative adversarial network over kernels with an encoder; samples and codes only."""

    kind: ClassVar = "pairwise_augmented_gan"
    has_density: ClassVar = False
    has_kl: ClassVar = False
    has_codes: ClassVar = True

    hidden: int = setting("units of each of the two hidden layers of every network", 128, ge=1)
    latent: int | None = setting("dimensions of a kernel's code; null: as many as weights", None, ge=1)
    augmentation: float = setting(
        "standard deviation of the noise that a reconstruction may have, where whitened kernels have 1",
        0.1,
        gt=0,
    )


@dataclass(frozen=True, kw_only=True)
class MetropolisHastingsSettings(TrainedPriorSettings):
    """A generator of kernels as the proposal of a Metropolis-Hastings chain; samples only."""

    kind: ClassVar = "metropolis_hastings"
    has_density: ClassVar = False
    has_kl: ClassVar = False

    hidden: int = setting("units of each of the two hidden layers of every network", 128, ge=1)
    proposals: int = setting(
        "proposals that the chain of each sample accepts or rejects; 0: samples of the generator", 20, ge=0
    )


@dataclass(frozen=True, kw_only=True)
class ArbitraryConditioningVAESettings(TrainedPriorSettings):
    """A variational autoencoder that draws any weights of a kernel given the others."""

    kind: ClassVar = "arbitrary_conditioning_vae"
    exact: ClassVar = False

    hidden: int = setting("units of each of the two hidden layers of every network", 128, ge=1)
    latent: int = setting("dimensions of a kernel's code", 16, ge=1)


@dataclass(frozen=True, kw_only=True)
class EmpiricalSettings(PriorSettings):
    """The learned filters themselves."""

    kind: ClassVar = "empirical"
    fitted: ClassVar = True
    has_density: ClassVar = False
    has_kl: ClassVar = False


@dataclass(frozen=True, kw_only=True)
class GaussianSettings(PriorSettings):
    """A Gaussian with mean and full covariance of the learned filters."""

    kind: ClassVar = "gaussian"
    fitted: ClassVar = True


@dataclass(frozen=True, kw_only=True)
class StudentTSettings(PriorSettings):
    """A multivariate Student's t distribution, fitted to the learned filters."""

    kind: ClassVar = "student_t"
    fitted: ClassVar = True


@dataclass(frozen=True, kw_only=True)
class GaussianMixtureSettings(PriorSettings):
    """A mixture of Gaussians with full covariances, fitted to the learned filters."""

    kind: ClassVar = "gaussian_mixture"
    fitted: ClassVar = True

    components: int = setting(
        "largest number of components; held-out kernels choose it from the powers of two up to this", 16, ge=1
    )
    shrinkage: float = setting(
        "weight of the common covariance in that of a component, as a number of kernels per weight", 0.5, gt=0
    )


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(PriorSettings):
    """A mixture model of norm and direction, fitted to the learned filters."""

    kind: ClassVar = "mixture"
    fitted: ClassVar = True
    smallest_size: ClassVar = 2  # the direction of a single weight is its sign

    directions: Literal["learned", "uniform"] = setting(
        "distribution of directions; uniform: noise with the norms of the learned filters, a control with "
        "their scale and without their structure",
        "learned",
    )
    components: int = setting("components of the mixture; of no effect with uniform directions", 8, ge=1)
    norms: int = setting("log-normal distributions that make up the distribution of norms", 4, ge=1)
    shrinkage: float = setting(
        "weight of the common covariance in that of a component, as a number of kernels per weight", 2.0, gt=0
    )

    @property
    def is_control(self) -> bool:
        """Return whether the prior has the norms of the kernels only."""
        return self.directions == "uniform"


@dataclass(frozen=True, kw_only=True)
class StandardNormalSettings(PriorSettings):
    """Every weight independent and Gaussian around zero."""

    kind: ClassVar = "standard_normal"

    scale: float = setting("standard deviation of every weight", 1.0, gt=0)


@dataclass(frozen=True, kw_only=True)
class CentredSettings(PriorSettings, listed=False):
    """Every weight of a layer independent and Gaussian around a given weight."""

    kind: ClassVar = "centred"

    scale: float = setting("standard deviation of every weight", gt=0)


@dataclass(frozen=True, kw_only=True)
class LearningFreeSettings(PriorSettings):
    """Base class of the settings of a prior with the structure of learned filters, without learning."""

    inputs: int = setting(
        "input channels of the layers; the mean squared norm of a kernel is 2 / inputs, as for He's "
        "initialisation",
        1,
        ge=1,
    )


@dataclass(frozen=True, kw_only=True)
class StructuredGaussianSettings(LearningFreeSettings):
    """A zero-mean Gaussian with a closed-form covariance like that of learned filters."""

    kind: ClassVar = "structured_gaussian"

    width: float = setting("standard deviation of the bumps in the covariance, in kernel sizes", 0.3, ge=0.05)
    noise: float = setting(
        "fraction of the variance that is independent noise in each weight", 0.05, gt=0, lt=1
    )


@dataclass(frozen=True, kw_only=True)
class GaborSettings(LearningFreeSettings):
    """Random Gabor filters and differences of Gaussians; samples only."""

    kind: ClassVar = "gabor"
    has_density: ClassVar = False
    has_kl: ClassVar = False
    smallest_size: ClassVar = 2  # a single weight has neither a frequency nor an orientation

    blobs: float = setting("fraction of differences of Gaussians", 0.25, ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class LogUniformSettings(PriorSettings):
    """The log-uniform prior of variational dropout, improper."""

    kind: ClassVar = "log_uniform"
    has_density: ClassVar = False
    has_samples: ClassVar = False

    approximation: Literal["kingma", "molchanov"] = setting(
        "approximation of the KL: kingma goes with posterior truncated_alpha, molchanov with any", "kingma"
    )

    def check_posterior(self, form: str) -> None:
        """Raise InputError for a form of posterior outside the range of the approximation."""
        if self.approximation == "kingma" and form != "truncated_alpha":
            raise InputError(
                "its approximation 'kingma' holds for α <= 1; "
                "use truncated_alpha, or approximation: molchanov"
            )


@dataclass(frozen=True, kw_only=True)
class ARDSettings(PriorSettings):
    """Automatic relevance determination: the variance of each weight is optimised out."""

    kind: ClassVar = "ard"
    has_density: ClassVar = False
    has_samples: ClassVar = False


@dataclass(frozen=True, kw_only=True)
class HierarchicalARDSettings(PriorSettings):
    """ARD with a Gamma hyper-prior over the precision of each weight, its rate learned for each layer."""

    kind: ClassVar = "hierarchical_ard"
    has_density: ClassVar = False
    has_samples: ClassVar = False

    shape: float = setting("shape of the Gamma hyper-prior; a small one is close to ard", 0.5, gt=0)


def known() -> list[str]:
    """Return the names of all kinds."""
    modules = [module.name for module in pkgutil.iter_modules(dwp.priors.__path__)]
    return sorted({*_kinds, *(name for name in modules if name[0] != "_" and name not in _OTHERS)})


def find(kind: str) -> type[PriorSettings]:
    """Return the class of a kind's settings, from `dwp.priors.<kind>` if it is not listed here.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in _kinds and kind in known():
        importlib.import_module(f"dwp.priors.{kind}")
    if kind not in _kinds:
        raise unknown("prior: kind", kind, known())
    return _kinds[kind]
