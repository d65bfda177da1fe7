"""The pairwise augmented GAN: samples of known distributions, codes, reconstructions, resumed fits."""

import pytest
import torch
from prior_helpers import assert_resumes, seeded

from dwp.errors import InputError
from dwp.priors.gaussian import Gaussian
from dwp.priors.pairwise_augmented_gan import PairwiseAugmentedGAN

SIZE = 2
FIT = {
    "hidden": 64,
    "schedule": {"lr": 0.003, "steps": 1500, "batch": 128, "precision": "float32"},
}
FACTOR = 0.3 * torch.randn(SIZE**2, SIZE**2, generator=seeded(9))


def correlated(n, seed):
    """Return kernels of a Gaussian whose variances differ by a factor of about a hundred."""
    return (0.2 + torch.randn(n, SIZE**2, generator=seeded(seed)) @ FACTOR.T).view(n, 1, SIZE, SIZE)


def two_modes(n, seed):
    """Return kernels of a mixture of two Gaussians at ±1.5 in each weight, with weights 0.4 and 0.6."""
    signs = 2 * (torch.rand(n, 1, 1, 1, generator=seeded(seed + 100)) < 0.4).float() - 1
    return 1.5 * signs + correlated(n, seed) - 0.2


@pytest.fixture(scope="module", params=[correlated, two_modes])
def fitted(request):
    train, test = request.param(4000, 1), request.param(2000, 2)
    return *PairwiseAugmentedGAN.fit(train, test, FIT, seed=0), test


def test_samples_have_the_moments_of_the_kernels(fitted):
    prior, _, test = fitted
    # In units of the standard deviation, in every direction.
    x, y = prior.whiten(test), prior.whiten(prior.sample(4000, seeded()))
    torch.testing.assert_close(y.mean(0), x.mean(0), rtol=0, atol=0.12)
    torch.testing.assert_close(torch.cov(y.T), torch.cov(x.T), rtol=0, atol=0.2)


def test_both_modes_are_sampled():
    train = two_modes(4000, 1)
    prior, rows = PairwiseAugmentedGAN.fit(train, two_modes(1000, 2), FIT, seed=0)
    sums = prior.sample(4000, seeded()).flatten(1).sum(1)
    assert (sums > 3).float().mean().item() == pytest.approx(0.4 * 0.97, abs=0.08)
    assert (sums < -3).float().mean().item() == pytest.approx(0.6 * 0.97, abs=0.08)
    # A Gaussian of this mean and covariance has a quarter of its draws between the modes.
    assert (sums.abs() < 2).float().mean() < 0.12
    energy = [row["value"] for row in rows if row["metric"] == "negative_energy"]
    assert energy[0] < 1.5 * energy[-1] < 0


@torch.no_grad()
def test_reconstructions_are_near_and_codes_standard_normal(fitted):
    prior, _, test = fitted
    x, rebuilt = prior.whiten(test), prior.whiten(prior.reconstruct(test))
    error = (x - rebuilt).square().mean()
    random = (x - x.roll(1, 0)).square().mean()
    assert error < 0.04 * random
    mean, variance = prior.encode(test)
    codes = mean + variance.sqrt() * torch.randn(mean.shape, generator=seeded())
    torch.testing.assert_close(codes.mean(0), torch.zeros(4), rtol=0, atol=0.15)
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(4), rtol=0, atol=0.25)


def test_an_untrained_prior_is_the_gaussian_and_reconstructs_exactly():
    train = correlated(500, 1).double()
    still = FIT | {"hidden": 4, "schedule": FIT["schedule"] | {"lr": 1e-15, "steps": 1}}
    prior, _ = PairwiseAugmentedGAN.fit(train, train, still, seed=0)
    gaussian = Gaussian.fit(train, train, {})[0]
    torch.testing.assert_close(prior.sample(50, seeded(1)), gaussian.sample(50, seeded(1)))
    torch.testing.assert_close(prior.reconstruct(train), train)
    assert prior.encode(train)[1].sqrt().mean().item() == pytest.approx(0.1, abs=1e-3)


def test_the_gradient_of_the_sum_is_that_of_each_network():
    train = correlated(64, 1).double()
    torch.manual_seed(0)
    prior = PairwiseAugmentedGAN(SIZE, hidden=4).double()
    prior.averaged.requires_grad_(False)
    terms = prior.losses(train)
    discriminators = [
        *prior.pair_discriminator.parameters(),
        *prior.reconstruction_discriminator.parameters(),
    ]
    others = list(prior.trained.parameters())
    for name, term in terms.items():
        left_alone = others if name.endswith("discriminator") else discriminators
        found = torch.autograd.grad(term, left_alone, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in found), name


def test_fewer_codes_than_weights_span_a_surface():
    still = FIT | {"hidden": 4, "latent": 2, "schedule": FIT["schedule"] | {"lr": 1e-15, "steps": 1}}
    train = correlated(300, 1).double()
    prior, _ = PairwiseAugmentedGAN.fit(train, train, still, seed=0)
    draws = prior.whiten(prior.sample(100, seeded()))
    assert torch.linalg.matrix_rank(draws - draws.mean(0)) == 2
    assert prior.encode(train)[0].shape == (300, 2)


def test_a_resumed_fit_gives_the_same_prior(tmp_path, monkeypatch):
    train, test = correlated(200, 1), correlated(50, 2)
    short = FIT | {"hidden": 8, "schedule": FIT["schedule"] | {"steps": 12, "batch": 50}}
    short["validation_fraction"] = 0.1
    assert_resumes(PairwiseAugmentedGAN, train, test, short, tmp_path, monkeypatch)


def test_it_has_no_density():
    prior = PairwiseAugmentedGAN(SIZE, hidden=4)
    with pytest.raises(InputError, match="pairwise_augmented_gan has no density; use it to draw samples"):
        prior.log_prob(torch.zeros(3, 1, SIZE, SIZE))
    with pytest.raises(InputError, match="augmentation is 0; expected a number above 0"):
        PairwiseAugmentedGAN(SIZE, augmentation=0)
