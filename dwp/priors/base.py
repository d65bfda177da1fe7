"""What a prior over kernels is, how one is saved, loaded and found by name.

A prior is one object with a density, samples and a KL divergence. Each kind
lives in the module of its name, `dwp/priors/<kind>.py`, and registers itself with
its settings: a new kind is a new file, and no other file changes.
"""

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dwp.errors import InputError
from dwp.files import save_tensors
from dwp.priors.distributions import GaussianPosterior, PointMass
from dwp.priors.settings import PriorSettings
from dwp.priors.settings import find as find_settings
from dwp.settings import check

FORMAT = "dwp-prior-1"

_kinds: dict[str, type["Prior"]] = {}


def register(cls: type["Prior"]) -> type["Prior"]:
    """Class decorator: make a kind of prior known by the name that its settings have."""
    _kinds[cls.kind] = cls
    return cls


def find(kind: str) -> type["Prior"]:
    """Return the class of a kind, importing `dwp.priors.<kind>` when it is not registered yet.

    Raises:
        InputError: there is no such kind.
    """
    find_settings(kind)
    if kind not in _kinds:
        importlib.import_module(f"dwp.priors.{kind}")
    return _kinds[kind]


@dataclass(frozen=True)
class KLEstimator:
    """How KL(q || prior) is estimated where it is not in closed form.

    No choice of `subset` or `posterior_samples` changes what the estimate is of, only its
    variance and cost; more `importance_samples` tighten the bound that it is of, where the
    prior's density is a bound.
    """

    subset: int | None = None
    """Of the M kernels of a layer, so many (m) are drawn at random and scaled by M/m; None: all."""
    posterior_samples: int = 1
    """Samples of each kernel from q, averaged."""
    importance_samples: int = 1
    """K of the importance-weighted bound on log p(w), see `Prior.log_prob`."""

    def __post_init__(self) -> None:
        for name in ("subset", "posterior_samples", "importance_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"KLEstimator: {name} is {value}; expected a whole number from 1")


class Prior(nn.Module):
    """A distribution over k×k kernels, one kernel independent of another.

    Subclasses define `log_prob` or `kl`, and `sample` where there is a proper
    distribution to sample from; they take their settings as keyword arguments.
    """

    settings_class: ClassVar[type[PriorSettings]] = PriorSettings
    """Its settings, with their defaults, and what others must know of the kind before they use it."""
    kind: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    """Whether `log_prob` is the density itself; otherwise it is a lower bound in expectation."""

    def __init__(self, kernel_size: int, **settings: object) -> None:
        super().__init__()
        self.settings_class.check_size(kernel_size)
        check(self.kind, self.settings_class, settings)
        self.kernel_size = kernel_size
        self.settings = settings

    def __init_subclass__(cls) -> None:
        cls.kind = cls.settings_class.kind

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: object
    ) -> tuple["Prior", list[dict]]:
        """Fit to kernels; return the prior, its parameters frozen, and rows {step, metric, value}.

        Args:
            train: [n, 1, k, k], on the device to fit on.
            test: [m, 1, k, k], held out, to judge the fit by (see `evaluate`).
            settings: values of its settings; for a trained kind also a `schedule`, and maybe a
                `validation_fraction` of the training kernels, to choose the best epoch by
                (0: the last epoch it is).
            training: `seed`, and for a trained kind `checkpoint` and `label` of `training.fit`.
        """
        raise InputError(f"prior: {cls.kind} has nothing to fit")

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the log density of kernels [n, 1, k, k] in nats, [n] (see `exact`).

        Args:
            w: kernels.
            samples: K of the importance-weighted bound, where the density is a lower bound
                (Burda et al. 2016; it grows with K); an exact density ignores it.
        """
        raise InputError(f"prior: {self.kind} has no density; use it to draw samples")

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k], on the CPU and the same ones wherever the prior is.

        Args:
            n: how many.
            generator: of the draws, on the CPU; None uses torch's own.
            mean: leave out the last layer of noise where the prior has one.
        """
        raise InputError(f"prior: {self.kind} cannot be sampled from; use another for the initialisation")

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return KL(q || prior) in nats, summed over all kernels, in expectation.

        The entropy of q is exact, the cross-entropy estimated (see `cross_entropy`). Where
        `log_prob` is a lower bound, this is an upper bound (paper, eq. 8 and 9). Kinds with
        a closed form return it and ignore `estimator`.
        """
        return self.cross_entropy(q, estimator) - q.entropy()

    def cross_entropy(
        self, q: GaussianPosterior | PointMass, estimator: KLEstimator = KLEstimator()
    ) -> Tensor:
        """Return an unbiased estimate of E_q[-log p(w)], in nats, summed over all kernels."""
        kernels = len(q)
        if estimator.subset is not None and estimator.subset < kernels:
            q = q[torch.randperm(kernels, device=q.mean.device)[: estimator.subset]]
        draws = torch.cat([q.rsample() for _ in range(estimator.posterior_samples)])
        log_prob = self.log_prob(draws, estimator.importance_samples).sum()
        return -log_prob * (kernels / len(draws))

    @torch.no_grad()
    def evaluate(self, w: Tensor, chunk: int = 8192) -> dict[str, float]:
        """Return what kernels [n, 1, k, k] say of the prior: mean log density, in nats per kernel."""
        log_prob = torch.cat([self.log_prob(part) for part in w.split(chunk)])
        return {"log_prob": log_prob.cpu().double().mean().item()}

    def reverse_model(self) -> nn.Module | None:
        """Return the part of a bound that may be trained along with the posterior, where there is one."""
        return None

    def extra_repr(self) -> str:
        """Show size and settings in the module's repr."""
        settings = "".join(f", {name}={value}" for name, value in self.settings.items())
        return f"{self.kernel_size}×{self.kernel_size}{settings}"


def save_prior(prior: Prior, path: str | Path) -> None:
    """Write a prior as one safetensors file that says what it is."""
    # One key: safetensors writes several in any order, and the same prior shall give the same bytes.
    settings = {"kernel_size": prior.kernel_size, **prior.settings}
    header = json.dumps({"format": FORMAT, "kind": prior.kind, "settings": settings}, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in prior.state_dict().items()}
    save_tensors(tensors, path, {"dwp": header})


def load_prior(path: str | Path, device: str | torch.device = "cpu") -> Prior:
    """Read a prior saved by `save_prior`, on any device, its parameters frozen.

    Raises:
        InputError: the file is missing, damaged, or is not a prior.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("dwp", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"prior: there is no file {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"prior: {path} cannot be read as safetensors ({error})") from None
    form = header.get("format") if isinstance(header, dict) else None
    if form != FORMAT:
        raise InputError(f"prior: {path} is not a prior of this library (format {form!r})")
    try:
        # Files from before it became a setting of the bound (see `KLEstimator`) carry it as one of the VAE's.
        settings = {key: value for key, value in header["settings"].items() if key != "importance_samples"}
        prior = find(header["kind"])(**settings)
        prior.load_state_dict(tensors)
    except (AttributeError, KeyError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"prior: {path} does not hold a {header.get('kind')}: {reason}") from None
    return prior.requires_grad_(False).to(device)


def collection(
    fitted: Mapping[str, Mapping[int, str | Path]], analytic: Mapping[str, dict], sizes: Iterable[int]
) -> dict[str, dict[int, Prior]]:
    """Return priors by name and kernel size: fitted ones read from files, analytic ones built.

    Args:
        fitted: files of fitted priors, by name and kernel size.
        analytic: settings with `kind`, by name.
        sizes: of kernels, which the analytic ones are built for.
    """
    priors = {
        name: {size: load_prior(file) for size, file in files.items()} for name, files in fitted.items()
    }
    sizes = list(sizes)
    for name, settings in analytic.items():
        own = {key: value for key, value in settings.items() if key != "kind"}
        priors[name] = {size: find(settings["kind"])(size, **own) for size in sizes}
    return priors
