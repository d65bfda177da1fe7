"""Helpers for tests of priors: posteriors, kernels of known density, a comparison of means."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal
from training_samples import Interrupted

from dwp.priors.distributions import GaussianPosterior
from dwp.priors.gaussian import Gaussian
from dwp.priors.vae import VAE
from dwp.training.checkpoints import Checkpoint

ERRORS = 4  # standard errors by which a Monte Carlo estimate may miss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def posterior(n=20, k=3, seed=0, dtype=torch.float64):
    generator = seeded(seed)
    mean = torch.randn(n, 1, k, k, dtype=dtype, generator=generator)
    return GaussianPosterior(mean, torch.randn(n, 1, k, k, dtype=dtype, generator=generator) - 2)


def assert_mean(draws, expected, other_error=0.0):
    """Assert that the mean of draws equals the expected number within `ERRORS` standard errors."""
    draws = torch.as_tensor(draws, dtype=torch.float64)
    error = math.hypot(draws.std().item() / math.sqrt(len(draws)), other_error)
    assert abs(draws.mean().item() - float(expected)) < ERRORS * error


def vae(k=3, hidden=6, latent=1, seed=0, **settings):
    """Return a random VAE whose decoder is strong enough for the latent code to matter."""
    torch.manual_seed(seed)
    prior = VAE(k, hidden=hidden, latent=latent, **settings)
    with torch.no_grad():
        for parameter in prior.decoder.parameters():
            parameter *= 2
    return prior.requires_grad_(False)


def gaussian_kernels(n, seed, spread=0.1):
    """Return kernels with deviation 1 along one direction and `spread` in all, and their entropy."""
    direction = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.0, -0.5], [0.0, -0.5, -1.0]])
    code = torch.randn(n, 1, 1, 1, generator=seeded(seed))
    w = code * direction + spread * torch.randn(n, 1, 3, 3, generator=seeded(seed + 1))
    covariance = direction.flatten()[:, None] * direction.flatten() + spread**2 * torch.eye(9)
    return w, 0.5 * torch.logdet(2 * math.pi * math.e * covariance.double()).item()


def smooth(scale=1.0, size=3):
    """A prior over kernels that are positive and smooth on average."""
    prior = Gaussian(size)
    common = torch.randn(500, 1, 1, 1, generator=seeded())
    own = torch.randn(500, 1, size, size, generator=seeded(1))
    prior.maximise(scale * (0.3 + common + 0.5 * own), 0.01)
    return prior.requires_grad_(False)


def curved_kernels(n, seed):
    """Return 2×2 kernels that lie near a parabola, which no Gaussian has."""
    w = 0.1 * torch.randn(n, 1, 2, 2, generator=seeded(seed))
    along = torch.randn(n, generator=seeded(seed + 1))
    w[:, 0, 0, 0] += along
    w[:, 0, 0, 1] += along**2
    return w


def assert_integrates_to_one(prior, n, width, most):
    """Assert by n importance samples that the density of a prior over 2×2 kernels integrates to one.

    Args:
        width: factor on the covariance of the prior's draws, for that of the proposal.
        most: largest standard error.
    """
    draws = prior.sample(5000, seeded(1)).flatten(1)
    proposal = MultivariateNormal(draws.mean(0), width * torch.cov(draws.T))
    torch.manual_seed(0)
    x = proposal.sample((n,))
    ratio = (prior.log_prob(x.view(n, 1, 2, 2)) - proposal.log_prob(x)).exp()
    error = ratio.std().item() / math.sqrt(n)
    assert error < most
    assert abs(ratio.mean().item() - 1) < ERRORS * error


def assert_resumes(cls, train, test, settings, folder, monkeypatch):
    """Assert that a fit of 12 steps that is killed in the eighth, and resumed, equals an undisturbed one."""
    expected, rows = cls.fit(train, test, settings, seed=3)
    checkpoint = Checkpoint(folder / "prior.pt", "prior", seconds=0)
    losses, calls = cls.losses, []

    def dies(prior, w):
        calls.append(1)
        if len(calls) == 8:
            raise Interrupted
        return losses(prior, w)

    with monkeypatch.context() as patched:
        patched.setattr(cls, "losses", dies)
        with pytest.raises(Interrupted):
            cls.fit(train, test, settings, seed=3, checkpoint=checkpoint)
    assert checkpoint.load()["step"] == 7
    resumed, again = cls.fit(train, test, settings, seed=3, checkpoint=checkpoint)
    assert again == rows
    assert all(map(torch.equal, expected.state_dict().values(), resumed.state_dict().values()))
