"""Coordinates of kernels that are standard normal under a prior, or nearly, for samplers of a posterior.

The scales of a fitted prior differ by orders of magnitude between directions. A sampler in the weights would
need steps of the smallest; in these coordinates all directions have the scale 1. The change of variables
leaves the distribution of the weights as it is.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from dwp.errors import InputError
from dwp.priors.base import Prior, PriorWithCodes

# Draws of a prior from which its mean and covariance are estimated.
DRAWS = 20_000
# Share of the mean variance that is added to every variance.
RIDGE = 1e-4


class Coordinates(Protocol):
    """Coordinates of n kernels, [n, m]; m may exceed k²."""

    @property
    def prior(self) -> Prior:
        """The prior."""

    exact: bool
    """Whether x is standard normal under the prior."""

    def kernels(self, x: Tensor) -> Tensor:
        """Return the kernels [n, 1, k, k] at coordinates [n, m]."""

    def at(self, kernels: Tensor) -> Tensor:
        """Return coordinates [n, m] of kernels [n, 1, k, k]."""

    def log_ratio(self, x: Tensor) -> Tensor:
        """Return log p(x) - log N(x; 0, I) of coordinates [n, m], in nats, summed, up to a constant."""


def of_prior(prior: Prior, like: Tensor) -> Coordinates:
    """Return coordinates for a prior.

    Args:
        prior: a prior with samples and a density, on the device of `like`.
        like: a weight, whose device and dtype (float32 at least) the coordinates of priors without tensors
            have; those of others have the prior's.

    Raises:
        InputError: the prior cannot be sampled from, or its density is missing or only a bound.
    """
    if isinstance(prior, PriorWithCodes) and prior.settings_class.has_density:
        return Codes(prior)
    if isinstance(getattr(prior, "vae", None), PriorWithCodes):
        return Whitened(prior)
    if (elliptical := prior.elliptical(like)) is not None:
        location, factor, freedom = elliptical
        if math.isinf(freedom):
            return Linear(prior, location, factor, exact=True)
        return ScaleMixture(prior, location, factor, freedom)
    if not prior.exact:
        raise InputError(
            f"prior: {prior.kind} has a bound on its density; to sample a posterior, use an exact one"
        )
    draws = prior.sample(DRAWS, torch.Generator().manual_seed(0)).to(like.device)
    prior.log_prob(draws[:1])
    x = draws.flatten(1).double()
    covariance = torch.cov(x.T).reshape(x.shape[1], -1)
    # Draws may lie in a plane.
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(x.T)).to(x)
    return Linear(prior, x.mean(0).to(draws), torch.linalg.cholesky(covariance).to(draws))


class Linear:
    """w = location + factor·x; x is standard normal if the prior is Gaussian.

    Args:
        prior: a prior with a density.
        location: mean of the kernels, [k²], or of each kernel, [n, k²].
        factor: lower Cholesky factor of their covariance, [k², k²].
        exact: whether the prior is the Gaussian with these moments.
    """

    def __init__(self, prior: Prior, location: Tensor, factor: Tensor, *, exact: bool = False) -> None:
        self.prior, self.location, self.factor, self.exact = prior, location, factor, exact

    def kernels(self, x: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        size = self.prior.kernel_size
        return (self.location + x @ self.factor.T).view(-1, 1, size, size)

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates; see `Coordinates`."""
        centred = (kernels.flatten(1).to(self.location) - self.location).T
        return torch.linalg.solve_triangular(self.factor, centred, upper=False).T.contiguous()

    def log_ratio(self, x: Tensor) -> Tensor:
        """Return the log ratio; see `Coordinates`."""
        return self.prior.log_prob(self.kernels(x)).sum() + 0.5 * x.square().sum()


class ScaleMixture:
    """w = location + factor·e/√λ of a Student's t, with x = (e, η) and log λ = m + s·η.

    λ ~ Gamma(ν/2, rate ν/2), and m and s are the mean and standard deviation of log λ, so that η is nearly
    standard normal and no heavy tail is left. Coordinates from moments would fail: these may be infinite.

    Args:
        prior: a Student's t.
        location: [k²].
        factor: lower Cholesky factor of its scale matrix, [k², k²].
        freedom: ν.
    """

    exact = False

    def __init__(self, prior: Prior, location: Tensor, factor: Tensor, freedom: float) -> None:
        self.prior, self.freedom = prior, freedom
        self.scaled = Linear(prior, location, factor)
        half = torch.tensor(freedom / 2, dtype=torch.double)
        self.mean = (torch.digamma(half) - half.log()).item()
        self.deviation = torch.polygamma(1, half).sqrt().item()

    def _log_precision(self, x: Tensor) -> Tensor:
        return self.mean + self.deviation * x[:, -1:]

    def kernels(self, x: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        return self.scaled.kernels(x[:, :-1] * (-0.5 * self._log_precision(x)).exp())

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates, with the mean of λ given the kernel; see `Coordinates`."""
        scaled = self.scaled.at(kernels)
        squares = scaled.square().sum(1, keepdim=True)
        precision = (self.freedom + scaled.shape[1]) / (self.freedom + squares)
        return torch.cat([scaled * precision.sqrt(), (precision.log() - self.mean) / self.deviation], 1)

    def log_ratio(self, x: Tensor) -> Tensor:
        """Return the log ratio; see `Coordinates`."""
        log_precision = self._log_precision(x)
        log_density = 0.5 * self.freedom * (log_precision - log_precision.exp())
        return (log_density + 0.5 * x[:, -1:].square()).sum()


class Codes:
    """w = mean(z) + deviation(z)·e of a VAE's decoder, with x = (z, e): exact, so that no bound is needed."""

    def __init__(self, prior: Any) -> None:
        self.prior, self.exact = prior, not prior.vamp

    def kernels(self, x: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        mean, variance = self.prior.decode(x[:, : self.prior.latent])
        return mean + variance.sqrt() * x[:, self.prior.latent :].view_as(mean)

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates, with the means of the codes under r(z|w); see `Coordinates`."""
        code = self.prior.encode(kernels)[0]
        mean, variance = self.prior.decode(code)
        return torch.cat([code, ((kernels - mean) / variance.sqrt()).flatten(1)], 1)

    def log_ratio(self, x: Tensor) -> Tensor:
        """Return the log ratio; see `Coordinates`."""
        codes = x[:, : self.prior.latent]
        return self.prior.code_log_prob(codes).sum() + 0.5 * codes.square().sum()


class Whitened:
    """Codes of `vae`, a VAE over whitened kernels."""

    def __init__(self, prior: Any) -> None:
        self.prior, self.codes = prior, Codes(prior.vae)
        self.exact = self.codes.exact

    def kernels(self, x: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        return self.prior.colour(self.codes.kernels(x))

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates, with the means of the codes; see `Coordinates`."""
        return self.codes.at(self.prior.whiten(kernels))

    def log_ratio(self, x: Tensor) -> Tensor:
        """Return the log ratio; see `Coordinates`."""
        return self.codes.log_ratio(x)
