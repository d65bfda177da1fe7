"""Priors over kernels: the base class, saving and loading, and the registry of kinds.

A prior has a density, samples and a KL divergence. Each kind is defined and registered in a module of its
name, `dwp/priors/<kind>.py`.
"""

import functools
import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dwp.errors import InputError
from dwp.files import load_tensors, save_tensors
from dwp.priors.distributions import GaussianPosterior, PointMass, as_kernels, as_posterior
from dwp.priors.settings import PriorSettings
from dwp.priors.settings import find as find_settings
from dwp.settings import check

FORMAT = "dwp-prior-1"

_kinds: dict[str, type["Prior"]] = {}


def register(cls: type["Prior"]) -> type["Prior"]:
    """Register a prior class under the kind of its settings; for use as a decorator."""
    _kinds[cls.kind] = cls
    return cls


def find(kind: str) -> type["Prior"]:
    """Return the class of a kind, importing `dwp.priors.<kind>` if it is not registered yet.

    Raises:
        InputError: there is no such kind.
    """
    find_settings(kind)
    if kind not in _kinds:
        importlib.import_module(f"dwp.priors.{kind}")
    return _kinds[kind]


@dataclass(frozen=True)
class KLEstimator:
    """Options for estimating KL(q || prior) where it has no closed form.

    `subset` and `posterior_samples` change the variance and the cost of the estimate, not its
    expectation. Where the prior's density is a lower bound, more `importance_samples` tighten it.
    """

    subset: int | None = None
    """Number m of the M kernels of a layer to draw at random; their sum is scaled by M/m. None: all."""
    posterior_samples: int = 1
    """Samples of each kernel from q to average over."""
    importance_samples: int = 1
    """K of the importance-weighted bound on log p(w), see `Prior.log_prob`."""

    def __post_init__(self) -> None:
        for name in ("subset", "posterior_samples", "importance_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"KLEstimator: {name} is {value}; expected a whole number from 1")


def _of_weights(log_prob: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a method `log_prob` of kernels [n, 1, k, k] take weights [o, i, k, k] too, and return [o, i]."""

    @functools.wraps(log_prob)
    def adapted(self: "Prior", w: Tensor, *options: Any, **named: Any) -> Tensor:
        kernels = as_kernels(w, self.kernel_size)
        found = log_prob(self, kernels, *options, **named)
        return found if kernels is w else found.view(w.shape[:2])

    return adapted


def _of_distributions(divergence: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a method of a `GaussianPosterior` take a `torch.distributions.Normal` too."""

    @functools.wraps(divergence)
    def adapted(self: "Prior", q: Any, *options: Any, **named: Any) -> Tensor:
        if isinstance(q, Distribution):
            q = as_posterior(q, self.kernel_size)
        return divergence(self, q, *options, **named)

    return adapted


class Prior(nn.Module):
    """A distribution over k×k kernels; kernels are independent of each other.

    Subclasses define `log_prob` or `kl`, and `sample` if the distribution is proper. They take their
    settings as keyword arguments. Methods of subclasses are for kernels [n, 1, k, k]; weights
    [o, i, k, k] and Normal distributions are converted before they are called.

    Args:
        kernel_size: k.
        settings: keyword arguments with which a saved prior is rebuilt.
    """

    settings_class: ClassVar[type[PriorSettings]] = PriorSettings
    """Class of the settings, with their defaults and the properties of the kind."""
    kind: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    """Whether `log_prob` is the density itself; otherwise it is a lower bound in expectation."""

    def __init__(self, kernel_size: int, **settings: Any) -> None:
        super().__init__()
        self.settings_class.check_size(kernel_size)
        check(self.kind, self.settings_class, settings)
        self.kernel_size = kernel_size
        self.settings = settings
        self.held_out: dict[str, float] = {}
        """Held-out log density, as recorded by `dwp.fit_prior`: see there; else empty."""

    def __init_subclass__(cls) -> None:
        cls.kind, cls.exact = cls.settings_class.kind, cls.settings_class.exact
        adapters = {"log_prob": _of_weights, "kl": _of_distributions, "cross_entropy": _of_distributions}
        for name in adapters.keys() & vars(cls).keys():
            setattr(cls, name, adapters[name](vars(cls)[name]))

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple[Self, list[dict]]:
        """Fit a prior to kernels; return it with frozen parameters, and rows {step, metric, value}.

        Args:
            train: kernels [n, 1, k, k], on the device to fit on.
            test: held-out kernels [m, 1, k, k], for `evaluate`.
            settings: values of the settings; for a trained kind also `schedule`, and optionally
                `validation_fraction`, the share of the training kernels that chooses the best epoch
                (0: the last epoch).
            training: `seed`, and for a trained kind `checkpoint` and `label` of `training.fit`.

        Raises:
            InputError: the kind has no parameters to fit.
        """
        raise InputError(f"prior: {cls.kind} has nothing to fit")

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the log density of each kernel in nats (see `exact`).

        Args:
            w: kernels [n, 1, k, k], for a result of shape [n]; or the weight of a convolution,
                [o, i, k, k] with i > 1, for a result of shape [o, i].
            samples: K of the importance-weighted bound (Burda et al. 2016), which grows with K;
                ignored if the density is exact.

        Raises:
            InputError: the kind has no density, or the shape is another.
        """
        raise InputError(f"prior: {self.kind} has no density; use it to draw samples")

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k] on the CPU; they do not depend on the prior's device.

        Args:
            n: number of kernels.
            generator: random generator on the CPU; None uses PyTorch's default.
            mean: omit the last layer of noise, if the prior has one.

        Raises:
            InputError: the kind cannot be sampled from.
        """
        raise InputError(f"prior: {self.kind} cannot be sampled from; use another for the initialisation")

    # Any, since methods of subclasses take a GaussianPosterior only.
    @_of_distributions
    def kl(self, q: Any, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return an unbiased estimate of KL(q || prior), in nats, summed over all kernels.

        The entropy of q is exact, the cross-entropy is estimated (see `cross_entropy`). Where `log_prob`
        is a lower bound, this is an upper bound (paper, eq. 8 and 9). Kinds with a closed form
        return it and ignore `estimator`.

        Args:
            q: a `GaussianPosterior`; or a `torch.distributions.Normal`, also inside `Independent`,
                over kernels [n, 1, k, k] or the weight of a convolution [o, i, k, k].
            estimator: see `KLEstimator`.

        Raises:
            InputError: q is another distribution, or over another shape.
        """
        return self.cross_entropy(q, estimator) - q.entropy()

    @_of_distributions
    def cross_entropy(
        self, q: GaussianPosterior | PointMass | Distribution, estimator: KLEstimator = KLEstimator()
    ) -> Tensor:
        """Return an unbiased estimate of E_q[-log p(w)], in nats, summed over all kernels; q as for `kl`."""
        assert isinstance(q, GaussianPosterior | PointMass)
        kernels = len(q)
        if estimator.subset is not None and estimator.subset < kernels:
            q = q[torch.randperm(kernels, device=q.mean.device)[: estimator.subset]]
        draws = torch.cat([q.rsample() for _ in range(estimator.posterior_samples)])
        log_prob = self.log_prob(draws, estimator.importance_samples).sum()
        return -log_prob * (kernels / len(draws))

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Return the mean log density `log_prob` of kernels [n, 1, k, k], in nats per kernel."""
        log_prob = torch.cat([self.log_prob(part) for part in w.split(chunk)])
        return {"log_prob": log_prob.cpu().double().mean().item()}

    def elliptical(self, like: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Return location, factor and degrees of freedom of a Gaussian or a Student's t; of others, None.

        The location is [k²] or [n, k²], the lower Cholesky factor of the scale matrix [k², k²], and the
        degrees of freedom are infinite for a Gaussian. Priors without tensors return them on the device of
        `like`, in its dtype (float32 at least).
        """
        return None

    def reverse_model(self) -> nn.Module | None:
        """Return the reverse model r(z|w), which may be trained along with a posterior, or None."""
        return None

    def extra_repr(self) -> str:
        """Show size and settings in the module's repr."""
        settings = "".join(f", {name}={value}" for name, value in self.settings.items())
        return f"{self.kernel_size}×{self.kernel_size}{settings}"


@runtime_checkable
class PriorWithCodes(Protocol):
    """A prior whose kernels have latent codes, see `priors.vae.VAE`."""

    def encode(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of r(z|w) for w [n, 1, k, k], each [n, latent]."""

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of p(w|z) for z [n, latent], each [n, 1, k, k]."""

    def code_kl(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return KL(N(mean, variance) || p(z)) for each of n codes, [n], in nats."""


def save_prior(prior: Prior, path: str | Path) -> None:
    """Write a prior to a safetensors file, with its kind, settings and held-out log density as metadata.

    The same prior gives the same bytes.

    Raises:
        StorageError: see `files.atomic_write`.
    """
    # One metadata key, since safetensors writes several in arbitrary order.
    settings = {"kernel_size": prior.kernel_size, **prior.settings}
    facts: dict[str, Any] = {"format": FORMAT, "kind": prior.kind, "settings": settings}
    if prior.held_out:
        facts["held_out"] = prior.held_out
    header = json.dumps(facts, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in prior.state_dict().items()}
    save_tensors(tensors, path, {"dwp": header})


def load_prior(path: str | Path, device: str | torch.device = "cpu") -> Prior:
    """Load a prior saved by `save_prior`, with frozen parameters; see `dwp.loading` for names and downloads.

    Args:
        path: the file.
        device: device of the loaded prior, independent of the one that it was saved from.

    Raises:
        InputError: the file is missing, damaged or not a prior, or its kind needs a package that is not
            installed (`flow` needs zuko, from the extra `flow`).
    """
    tensors, header = load_tensors(path, "prior")
    if (form := header.get("format")) != FORMAT:
        raise InputError(f"prior: {path} is not a prior of this library (format {form!r})")
    try:
        prior = find(header["kind"])(**header["settings"])
        prior.load_state_dict(tensors)
        prior.held_out = dict(header.get("held_out", {}))
    except (AttributeError, KeyError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"prior: {path} cannot be loaded as a {header.get('kind')}: {reason}") from None
    return prior.requires_grad_(False).to(device)


def collection(
    fitted: Mapping[str, Mapping[int, str | Path]], analytic: Mapping[str, dict], sizes: Iterable[int]
) -> dict[str, dict[int, Prior]]:
    """Return priors by name and kernel size: fitted ones read from files, analytic ones built.

    Args:
        fitted: files of fitted priors, by name and kernel size.
        analytic: settings of analytic priors, with `kind`, by name.
        sizes: kernel sizes of the analytic priors.
    """
    priors = {
        name: {size: load_prior(file) for size, file in files.items()} for name, files in fitted.items()
    }
    sizes = list(sizes)
    for name, settings in analytic.items():
        own = {key: value for key, value in settings.items() if key != "kind"}
        priors[name] = {size: find(settings["kind"])(size, **own) for size in sizes}
    return priors
