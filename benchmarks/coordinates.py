"""Coordinates for sampling: kernels as functions of variables that are nearly independent under the prior.

In the weights themselves, the scales of a fitted prior differ by orders of magnitude between directions, and
Hamiltonian Monte Carlo would need steps of the smallest. A change of variables leaves the posterior over
weights as it is. `of_prior` returns the coordinates for a prior.
"""

from typing import Protocol

import torch
from torch import Tensor

from dwp.errors import InputError
from dwp.priors.base import Prior
from dwp.priors.gaussian import Gaussian
from dwp.priors.mixture import Mixture
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE


class Coordinates(Protocol):
    """Coordinates of n kernels, [n, m]; m may exceed k²."""

    def kernels(self, place: Tensor) -> Tensor:
        """Return the kernels [n, 1, k, k] at coordinates [n, m]."""

    def at(self, kernels: Tensor) -> Tensor:
        """Return coordinates [n, m] of kernels [n, 1, k, k], the most probable or close to these."""

    def log_prob(self, place: Tensor) -> Tensor:
        """Return the log density of coordinates [n, m], in nats, summed, up to a constant."""


class Affine:
    """w = location + factor·x for priors that are Gaussian; x is standard normal."""

    def __init__(self, prior: Gaussian | StandardNormal) -> None:
        self.size = prior.kernel_size
        if isinstance(prior, Gaussian):
            self.location, self.factor = prior.mean, prior.factor
        else:
            self.location, self.factor = torch.zeros(self.size**2), prior.scale * torch.eye(self.size**2)

    def kernels(self, place: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        return (self.location + place @ self.factor.T).view(-1, 1, self.size, self.size)

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates; see `Coordinates`."""
        centred = (kernels.flatten(1) - self.location).T
        return torch.linalg.solve_triangular(self.factor, centred, upper=False).T.contiguous()

    def log_prob(self, place: Tensor) -> Tensor:
        """Return the log density; see `Coordinates`."""
        return -0.5 * place.square().sum()


class NormAndDirection:
    """w = exp(a + b·y)·v/‖v‖ with v = factor·x for a mixture; the coordinates are (y, x).

    The prior over v is the mixture's, before its projection to the unit sphere, so the length of v has a
    distribution but no effect.
    """

    def __init__(self, prior: Mixture) -> None:
        self.prior, self.size = prior, prior.kernel_size
        samples = prior.sample(20_000, torch.Generator().manual_seed(0)).flatten(1)
        log_norms = samples.norm(dim=1).log()
        self.mean, self.std = log_norms.mean(), log_norms.std()
        # Second moments of v: those of the components, weighted.
        factors = torch.linalg.inv(prior.whitening)
        means = (factors @ prior.shift[:, :, None])[:, :, 0]
        moments = factors @ factors.mT + means[:, :, None] * means[:, None]
        weights = prior.log_weights.exp().sum(1)
        self.factor = torch.linalg.cholesky((weights[:, None, None] * moments).sum(0))

    def kernels(self, place: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        v = place[:, 1:] @ self.factor.T
        norm = (self.mean + self.std * place[:, :1]).exp()
        return (norm * v / v.norm(dim=1, keepdim=True)).view(-1, 1, self.size, self.size)

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates; see `Coordinates`."""
        w = kernels.flatten(1)
        norm = w.norm(dim=1, keepdim=True)
        x = torch.linalg.solve_triangular(self.factor, (w / norm).T, upper=False).T
        # The most probable length under a normal: its mode is near the root of the dimensions.
        x = x * (x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True))
        return torch.cat([(norm.log() - self.mean) / self.std, x], 1)

    def log_prob(self, place: Tensor) -> Tensor:
        """Return the log density; see `Coordinates`."""
        prior = self.prior
        v = place[:, 1:] @ self.factor.T
        white = torch.einsum("cij,nj->nci", prior.whitening, v) - prior.shift
        direction = -0.5 * white.square().sum(2) + prior.whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        y = (self.mean + self.std * place[:, :1] - prior.log_norm) / prior.log_norm_std
        norms = -0.5 * y.square() - prior.log_norm_std.log()
        norm = torch.logsumexp(norms[:, None] + prior.log_weights, 2)
        return torch.logsumexp(direction + norm, 1).sum()


class Codes:
    """w = mean(z) + deviation(z)·x of a VAE's decoder; the coordinates are (z, x), so no bound is needed."""

    def __init__(self, prior: VAE) -> None:
        self.prior = prior

    def kernels(self, place: Tensor) -> Tensor:
        """Return the kernels; see `Coordinates`."""
        mean, variance = self.prior.decode(place[:, : self.prior.latent])
        return mean + variance.sqrt() * place[:, self.prior.latent :].view_as(mean)

    def at(self, kernels: Tensor) -> Tensor:
        """Return the coordinates, with the mean codes; see `Coordinates`."""
        code = self.prior.encode(kernels)[0]
        mean, variance = self.prior.decode(code)
        return torch.cat([code, ((kernels - mean) / variance.sqrt()).flatten(1)], 1)

    def log_prob(self, place: Tensor) -> Tensor:
        """Return the log density; see `Coordinates`."""
        code, x = place[:, : self.prior.latent], place[:, self.prior.latent :]
        return self.prior.code_log_prob(code).sum() - 0.5 * x.square().sum()


_KINDS: dict[type[Prior], type] = {
    Gaussian: Affine,
    StandardNormal: Affine,
    Mixture: NormAndDirection,
    VAE: Codes,
}


def of_prior(prior: Prior) -> Coordinates:
    """Return coordinates for a prior.

    Raises:
        InputError: there are none for this kind of prior.
    """
    if type(prior) not in _KINDS:
        kinds = ", ".join(kind.kind for kind in _KINDS)
        raise InputError(f"prior: no coordinates for a {prior.kind}; give one of {kinds}")
    return _KINDS[type(prior)](prior)
