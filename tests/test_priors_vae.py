"""The VAE: architecture, codes and bounds, against closed forms, integrals and entropies."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from prior_helpers import ERRORS, assert_mean, posterior, seeded, vae
from torch.distributions import Independent, Normal, kl_divergence

from dwp.errors import InputError
from dwp.priors import vae as module
from dwp.priors.base import KLEstimator
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.vae import VAE

CODES = ["standard_normal", "vamp"]


def exact(code_prior, **options):
    """Return a VAE in double precision; a VampPrior has well-separated components."""
    prior = vae(code_prior=code_prior, pseudo_inputs=5, **options).double()
    if prior.vamp:
        prior.pseudo.mul_(3)
    return prior


@pytest.fixture(scope="module")
def kernels():
    return torch.randn(12, 1, 3, 3, generator=seeded(5)).double()


GRID = torch.linspace(-12, 12, 2001, dtype=torch.float64)
STEP = 24 / 2000


def log_marginal(prior, w):
    """Integrate p(w|z) p(z) over a grid of one-dimensional z; exact to rounding."""
    mean, variance = prior.decode(GRID[:, None])
    density = Independent(Normal(mean, variance.sqrt()), 3)
    log_joint = torch.stack([density.log_prob(kernel) for kernel in w]) + prior.code_log_prob(GRID[:, None])
    return torch.logsumexp(log_joint, 1) + math.log(STEP)


# Architecture


@pytest.mark.parametrize("code_prior", CODES)
@pytest.mark.parametrize("k", range(2, 17))
def test_shapes(k, code_prior):
    prior = VAE(k, hidden=4, latent=3, code_prior=code_prior, pseudo_inputs=2).double()
    w = torch.randn(6, 1, k, k, dtype=torch.float64, requires_grad=True)
    mean, variance = prior.encode(w)
    assert mean.shape == variance.shape == (6, 3)
    location, spread = prior.decode(mean)
    assert location.shape == spread.shape == (6, 1, k, k)
    assert bool((variance > 0).all() and (spread > 0).all())
    assert prior.log_prob(w).shape == prior.log_prob(w, 4).shape == prior.code_log_prob(mean).shape == (6,)
    assert prior.sample(5).shape == prior.sample(5, mean=True).shape == (5, 1, k, k)
    # Every weight is seen: no row is lost to a stride.
    (seen,) = torch.autograd.grad(mean.square().sum(), w)
    assert bool((seen[0] != 0).all())
    assert bool((location[0] != location[1]).all())


def convolutions(sequence):
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0])
        for m in sequence
        if hasattr(m, "weight")
    ]


def test_the_architecture_is_the_papers():
    seven, five = VAE(7, 32, 2), VAE(5, 64, 4)
    assert convolutions(seven.encoder) == [
        (1, 32, 3, 1, 0),
        (32, 64, 3, 1, 0),
        (64, 64, 3, 1, 0),
        (64, 4, 1, 1, 0),
    ]
    assert convolutions(seven.decoder) == [
        (2, 64, 1, 1, 0),
        (64, 64, 3, 1, 0),
        (64, 32, 3, 1, 0),
        (32, 32, 3, 1, 0),
        (32, 2, 1, 1, 0),
    ]
    assert convolutions(five.encoder) == [
        (1, 64, 3, 1, 1),
        (64, 64, 3, 1, 1),
        (64, 128, 3, 1, 0),
        (128, 128, 3, 1, 0),
        (128, 8, 1, 1, 0),
    ]
    assert convolutions(five.decoder) == [
        (4, 128, 1, 1, 0),
        (128, 128, 3, 1, 0),
        (128, 64, 3, 1, 0),
        (64, 2, 1, 1, 0),
    ]
    # The tensor names in files of the paper's VAEs.
    assert list(five.state_dict())[:3] == ["encoder.0.weight", "encoder.0.bias", "encoder.2.weight"]
    assert not seven.vamp


def test_large_kernels_are_halved_first():
    steps = {k: [layer[2:4] for layer in convolutions(VAE(k, 4, 2).encoder)] for k in (9, 11, 16)}
    one = (1, 1)
    assert steps[9] == [(3, 2), (2, 1), (3, 1), one]
    assert steps[11] == [(3, 2), (3, 1), (3, 1), one]
    assert steps[16] == [(2, 2), (2, 2), (2, 1), (3, 1), one]


def test_refusals():
    with pytest.raises(InputError, match="kernel size 1 cannot be built; it takes sizes from 2"):
        VAE(1, hidden=4, latent=2)
    with pytest.raises(InputError, match="code_prior: 'gmm' is not known; use one of standard_normal, vamp"):
        VAE(3, hidden=4, latent=2, code_prior="gmm")


# Codes


def test_vamp_is_the_mixture_of_the_pseudo_kernels_codes():
    prior = exact("vamp")
    mean, variance = (moment.numpy() for moment in prior.encode(prior.pseudo))
    expected = scipy.stats.norm.pdf(GRID.numpy(), mean, np.sqrt(variance)).mean(0)
    density = prior.code_log_prob(GRID[:, None]).exp()
    np.testing.assert_allclose(density.numpy(), expected, atol=1e-12)
    assert (density.sum() * STEP).item() == pytest.approx(1, abs=1e-6)
    assert mean.std() > 0.1, "the components lie apart"


@pytest.mark.parametrize("code_prior", CODES)
def test_codes_are_drawn_from_their_prior(code_prior):
    prior = exact(code_prior)
    codes = prior.sample_codes(4000, seeded())
    assert codes.shape == (4000, 1)
    cumulative = (prior.code_log_prob(GRID[:, None]).exp() * STEP).cumsum(0).numpy()
    result = scipy.stats.kstest(
        codes[:, 0].numpy(), lambda z: np.interp(z, GRID.numpy() + STEP / 2, cumulative)
    )
    assert result.pvalue > 1e-3
    assert torch.equal(codes, prior.sample_codes(4000, seeded()))


@pytest.mark.parametrize("code_prior", CODES)
def test_code_kl_against_the_integral(code_prior, kernels):
    prior = exact(code_prior)
    mean, variance = prior.encode(kernels[:3])
    reverse = Normal(mean, variance.sqrt())
    log_reverse = reverse.log_prob(GRID)
    integral = (log_reverse.exp() * (log_reverse - prior.code_log_prob(GRID[:, None]))).sum(1) * STEP
    torch.manual_seed(0)
    draws = torch.stack([prior.code_kl(mean, variance) for _ in range(1000)])
    if prior.vamp:
        for each, expected in zip(draws.T, integral, strict=True):
            assert_mean(each, expected)
        z = mean + 0.3
        at = reverse.log_prob(z).sum(1) - prior.code_log_prob(z)
        torch.testing.assert_close(prior.code_kl(mean, variance, z), at)
    else:
        torch.testing.assert_close(draws[0], integral)
        assert torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("code_prior", CODES)
def test_the_prior_stays_when_its_reverse_model_is_trained(code_prior):
    prior, z = exact(code_prior), torch.randn(6, 1, dtype=torch.float64, generator=seeded())
    density, codes = prior.code_log_prob(z), prior.sample_codes(5, seeded())
    w = posterior(n=4).mean
    before = prior.encode(w)[0]
    keys = prior.state_dict().keys()
    for parameter in prior.reverse_model().parameters():
        parameter.add_(0.1)
    assert not torch.equal(before, prior.encode(w)[0])
    assert torch.equal(density, prior.code_log_prob(z))
    assert torch.equal(codes, prior.sample_codes(5, seeded()))
    assert prior.state_dict().keys() == keys


# Bounds


def test_elbo_terms(kernels):
    prior = exact("standard_normal", latent=4)
    log_likelihood, kl = prior.elbo_terms(kernels, seeded(1))
    mean, variance = prior.encode(kernels)
    torch.testing.assert_close(kl, kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum(1))
    z = mean + variance.sqrt() * torch.randn(mean.shape, generator=seeded(1), dtype=mean.dtype)
    location, spread = prior.decode(z)
    expected = Independent(Normal(location, spread.sqrt()), 3).log_prob(kernels)
    torch.testing.assert_close(log_likelihood, expected)


@pytest.mark.parametrize("code_prior", CODES)
def test_bounds_grow_with_their_samples_and_stay_below_the_density(code_prior, kernels):
    prior = exact(code_prior)
    density = log_marginal(prior, kernels)
    torch.manual_seed(0)

    def draw(samples, repeats):
        draws = prior.log_prob(kernels.repeat(repeats, 1, 1, 1), samples).view(repeats, -1)
        return draws.mean(0), draws.std(0) / math.sqrt(repeats)

    (one, one_error), (ten, ten_error) = draw(1, 5000), draw(10, 1500)
    many = prior.log_prob(kernels, 10_000)
    assert bool((one <= density + ERRORS * one_error).all())
    assert bool((ten <= density + ERRORS * ten_error).all())
    assert (ten - one).sum() > ERRORS * (one_error**2 + ten_error**2).sum().sqrt()
    assert (many - ten).sum() > ERRORS * ten_error.square().sum().sqrt()
    # Ten thousand samples close the gap, up to the noise of one such estimate.
    torch.testing.assert_close(many, density, atol=0.06, rtol=0)


@pytest.mark.parametrize("samples", [1, 3])
def test_many_codes_go_part_by_part_and_give_the_same_gradients(samples, kernels, monkeypatch):
    prior = exact("vamp")
    w = kernels.clone().requires_grad_()

    def result(parts):
        torch.manual_seed(0)
        value = torch.cat([prior.log_prob(part, samples) for part in parts])
        return value, *torch.autograd.grad(value.sum(), w)

    expected = result(w.split(4))
    monkeypatch.setattr(module, "CODES", 4 * samples)
    assert all(map(torch.equal, result([w]), expected))


@pytest.mark.parametrize("code_prior", CODES)
def test_the_density_of_samples_lies_between_bounds_that_close_with_their_codes(code_prior):
    prior = exact(code_prior)
    gaps = []
    for samples in (1, 10, 100):
        lower, upper = prior.sandwich(1000, samples, seeded())
        # The same samples: the code and the noise of each are drawn first.
        codes = prior.sample_codes(1000, generator := seeded())
        mean, variance = prior.decode(codes)
        w = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        density = torch.cat([log_marginal(prior, part) for part in w.split(500)])
        for difference in (density - lower, upper - density):
            error = difference.std().item() / math.sqrt(len(difference))
            assert difference.mean().item() > -ERRORS * error
        gaps.append((upper - lower).mean().item())
        assert_mean(lower - density, (prior.log_prob(w, samples) - density).mean(), error)
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.05


@pytest.mark.parametrize("code_prior", CODES)
@pytest.mark.parametrize("samples", [1, 5])
def test_kl_from_a_subset_is_unbiased(code_prior, samples):
    prior, q = exact(code_prior, latent=2), posterior(n=16)
    many = GaussianPosterior(q.mean.repeat(50, 1, 1, 1), q.log_variance.repeat(50, 1, 1, 1))
    torch.manual_seed(0)
    full = torch.stack([prior.kl(many, KLEstimator(None, 1, samples)) / 50 for _ in range(20)])
    error = full.std().item() / math.sqrt(len(full))
    for subset, draws in ((3, 1), (5, 4), (None, 4), (16, 1)):
        estimates = [prior.kl(q, KLEstimator(subset, draws, samples)) for _ in range(100)]
        assert_mean(torch.stack(estimates), full.mean(), error)


def test_kl_is_an_upper_bound_that_falls_with_importance_samples(kernels):
    # Of a posterior so narrow that the cross-entropy is the density at its mean.
    prior = exact("standard_normal")
    q = GaussianPosterior(kernels, torch.full_like(kernels, -30.0))
    density = -log_marginal(prior, kernels).sum() - q.entropy()
    torch.manual_seed(0)
    one, ten = (
        torch.stack([prior.kl(q, KLEstimator(None, 30, samples)) for _ in range(20)]) for samples in (1, 10)
    )
    error = math.hypot(one.std().item(), ten.std().item()) / math.sqrt(20)
    assert one.mean() > ten.mean() + ERRORS * error
    assert ten.mean() > density


def test_samples_are_decoded_codes_with_the_decoders_noise():
    prior = vae(latent=2)
    w, mean = prior.sample(500, seeded()), prior.sample(500, seeded(), mean=True)
    location, variance = prior.decode(torch.randn(500, 2, generator=seeded()))
    assert torch.equal(mean, location)
    noise = ((w - mean) / variance.sqrt()).flatten().numpy()
    assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3
    assert location.std(0).min() > 0.01, "the code matters"


def test_evaluation_is_repeatable_whatever_the_chunk(kernels):
    prior = exact("vamp")
    found = prior.evaluate(kernels)
    torch.rand(5)
    assert prior.evaluate(kernels) == found
    assert prior.evaluate(kernels, chunk=5) == pytest.approx(found, rel=1e-5)


def test_a_vae_has_second_derivatives():
    torch.manual_seed(0)
    prior = VAE(3, hidden=2, latent=2).double()
    w = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda w: prior.encode(w)[0], (w,))
