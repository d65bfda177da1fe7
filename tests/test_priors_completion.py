"""Completion of kernels: the Gaussian's exact conditional, and the VAE with arbitrary conditioning."""

import math

import pytest
import torch
from prior_helpers import ERRORS, assert_mean, gaussian_kernels, seeded
from torch.distributions import MultivariateNormal

from dwp.bayes import coordinates
from dwp.errors import InputError
from dwp.priors.arbitrary_conditioning_vae import ArbitraryConditioningVAE, random_masks
from dwp.priors.base import find
from dwp.priors.gaussian import Gaussian

KINDS = ["gaussian", "arbitrary_conditioning_vae"]
CORNERS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 1]], dtype=torch.bool)


def known():
    """Return the Gaussian of `gaussian_kernels`, in double precision."""
    direction = torch.tensor([1.0, 0.5, 0.0, 0.5, 0.0, -0.5, 0.0, -0.5, -1.0], dtype=torch.float64)
    prior = Gaussian(3).double()
    prior.factor.copy_(torch.linalg.cholesky(direction[:, None] * direction + 0.01 * torch.eye(9)))
    return prior


def general(seed=0):
    """Return a Gaussian with a mean and a full covariance, in double precision."""
    prior = Gaussian(3).double()
    prior.mean.copy_(torch.linspace(-1, 1, 9))
    prior.factor.copy_(torch.eye(9) + 0.5 * torch.randn(9, 9, generator=seeded(seed)).tril(-1))
    return prior


def untrained(kind):
    torch.manual_seed(0)
    options = {} if kind == "gaussian" else {"hidden": 8, "latent": 3}
    return find(kind)(3, **options).double().requires_grad_(False)


def closed_form(prior, w, mask):
    """Return the conditional of the unobserved weights by the textbook formula for blocks of Σ."""
    covariance, mask, x = prior.factor @ prior.factor.T, mask.flatten(), w.flatten(1)
    gain = torch.linalg.solve(covariance[mask][:, mask], covariance[mask][:, ~mask]).T
    mean = prior.mean[~mask] + (x[:, mask] - prior.mean[mask]) @ gain.T
    return MultivariateNormal(
        mean, covariance[~mask][:, ~mask] - gain @ covariance[mask][:, ~mask], validate_args=False
    )


# Gaussian


def test_the_conditional_density_is_that_of_the_formula():
    prior = general()
    w = torch.randn(6, 1, 3, 3, generator=seeded(1), dtype=torch.float64)
    expected = closed_form(prior, w, CORNERS).log_prob(w.flatten(1)[:, ~CORNERS.flatten()])
    torch.testing.assert_close(prior.conditional_log_prob(w, CORNERS), expected)
    # The chain rule, with a mask of each kernel.
    masks = torch.rand(6, 1, 3, 3, generator=seeded(2)) < 0.5
    masks[..., 0, 0] = True
    for kernel, mask, found in zip(w, masks, prior.conditional_log_prob(w, masks), strict=True):
        seen = mask.flatten()
        covariance = (prior.factor @ prior.factor.T)[seen][:, seen]
        marginal = MultivariateNormal(prior.mean[seen], covariance).log_prob(kernel.flatten()[seen])
        torch.testing.assert_close(found + marginal, prior.log_prob(kernel[None])[0])
    torch.testing.assert_close(prior.conditional_log_prob(w, torch.zeros_like(CORNERS)), prior.log_prob(w))
    assert (prior.conditional_log_prob(w, torch.ones_like(CORNERS)) == 0).all()


def test_completions_have_the_mean_and_covariance_of_the_formula():
    prior = general()
    w = torch.randn(1, 1, 3, 3, generator=seeded(1), dtype=torch.float64)
    expected = closed_form(prior, w, CORNERS)
    draws = prior.complete(w.expand(20_000, -1, -1, -1), CORNERS, seeded(3)).flatten(1)
    free = draws[:, ~CORNERS.flatten()]
    for column, mean in zip(free.T, expected.mean[0], strict=True):
        assert_mean(column, mean)
    error = ERRORS * math.sqrt(2 / len(draws)) * expected.covariance_matrix.diagonal(dim1=1, dim2=2).max()
    torch.testing.assert_close(torch.cov(free.T), expected.covariance_matrix[0], rtol=0, atol=error.item())


def test_masks_of_each_kernel_are_completed_as_if_alone():
    prior = general()
    w = torch.randn(4, 1, 3, 3, generator=seeded(1), dtype=torch.float64)
    masks = torch.rand(4, 1, 3, 3, generator=seeded(2)) < 0.5
    together = prior.complete(w, masks, seeded(5))
    noise = torch.randn(4, 9, generator=seeded(5), dtype=torch.float64)
    for kernel, mask, row, found in zip(w, masks, noise, together, strict=True):
        mean, root = prior._conditional(kernel.flatten(1), mask.view(1, 9))
        alone = mean[0] + torch.linalg.solve_triangular(root[0].T, row[:, None], upper=True)[:, 0]
        torch.testing.assert_close(found, torch.where(mask, kernel, alone.view(1, 3, 3)))


def test_gradients_of_the_conditional_density():
    prior = general()
    w = torch.randn(2, 1, 3, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: prior.conditional_log_prob(w, CORNERS), w)


# Both kinds


@pytest.mark.parametrize("kind", KINDS)
def test_observed_weights_are_unchanged_and_unobserved_ones_ignored(kind):
    prior = untrained(kind)
    w = torch.randn(5, 1, 3, 3, generator=seeded(1), dtype=torch.float64)
    found = prior.complete(w, CORNERS, seeded(2))
    assert torch.equal(found[:, :, CORNERS], w[:, :, CORNERS])
    assert (found[:, :, ~CORNERS] != w[:, :, ~CORNERS]).all()
    unknown = w.masked_fill(~CORNERS, math.nan)
    assert torch.equal(prior.complete(unknown, CORNERS, seeded(2)), found)
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert torch.equal(prior.complete(w, everything), w)
    assert (prior.conditional_log_prob(w, everything) <= 0).all()
    assert prior.complete(w.float(), CORNERS).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_convolution_are_completed_kernel_by_kernel(kind):
    prior = untrained(kind)
    w = torch.randn(4, 2, 3, 3, generator=seeded(1), dtype=torch.float64)
    masks = torch.rand(4, 2, 3, 3, generator=seeded(2)) < 0.5
    found = prior.complete(w, masks, seeded(3))
    by_kernel = prior.complete(w.view(8, 1, 3, 3), masks.view(8, 1, 3, 3), seeded(3))
    assert torch.equal(found, by_kernel.view(4, 2, 3, 3))
    assert prior.conditional_log_prob(w, masks).shape == (4, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_other_masks_and_shapes_are_refused(kind):
    prior, w = untrained(kind), torch.zeros(4, 1, 3, 3)
    for mask in (torch.ones(3, 3), torch.ones(3, dtype=torch.bool), torch.ones(2, 1, 3, 3, dtype=torch.bool)):
        for method in (prior.complete, prior.conditional_log_prob):
            with pytest.raises(InputError, match=r"expected torch.bool of shape \[3, 3\] or \[4, 1, 3, 3\]"):
                method(w, mask)
    with pytest.raises(InputError, match="the weights have shape"):
        prior.complete(torch.zeros(4, 1, 5, 5), torch.ones(5, 5, dtype=torch.bool))


# The VAE with arbitrary conditioning


FIT = {
    "hidden": 64,
    "latent": 4,
    "schedule": {"lr": 0.003, "steps": 2500, "batch": 128, "precision": "float32"},
}


@pytest.fixture(scope="module")
def fitted():
    train, entropy = gaussian_kernels(4000, 0)
    test, _ = gaussian_kernels(1000, 7)
    prior, rows = ArbitraryConditioningVAE.fit(train, test, FIT, seed=0)
    return prior, rows, test, entropy


MASKS = {
    "corners": CORNERS,
    "row": torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.bool),
    "one weight": torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool),
}


@pytest.mark.parametrize("name", MASKS)
def test_conditional_means_approach_those_of_the_gaussian(fitted, name):
    prior, _, test, _ = fitted
    mask, w = MASKS[name], test[:200]
    expected = closed_form(known(), w.double(), mask)
    repeated = w.repeat(100, 1, 1, 1)
    draws = prior.complete(repeated, mask, seeded()).view(100, 200, 9)[:, :, ~mask.flatten()].double()
    error = (draws.mean(0) - expected.mean).square().mean().sqrt()
    # Below the deviation of the conditional itself, and far below that of the weights.
    assert error < 0.06
    assert w.flatten(1)[:, ~mask.flatten()].std() > 5 * error
    spread = expected.covariance_matrix.diagonal(dim1=1, dim2=2).sqrt().mean()
    assert draws.std(0).mean().item() == pytest.approx(spread.item(), rel=0.2)


@pytest.mark.parametrize("name", MASKS)
def test_the_bound_is_below_the_true_conditional_density_and_grows_with_samples(fitted, name):
    prior, _, test, _ = fitted
    truth = known().conditional_log_prob(test.double(), MASKS[name])
    torch.manual_seed(0)
    one, many = (prior.conditional_log_prob(test, MASKS[name], k).double() for k in (1, 50))
    for bound in (one, many):
        gap = truth - bound
        assert gap.mean() > -ERRORS * gap.std() / math.sqrt(len(gap))
    assert (truth - many).mean() < 1
    assert (many - one).mean() > -ERRORS * (many - one).std() / math.sqrt(len(one))


def test_with_nothing_observed_it_is_a_vae(fitted):
    prior, rows, test, entropy = fitted
    torch.manual_seed(0)
    found = prior.log_prob(test, 50)
    error = found.std().item() / math.sqrt(len(test))
    assert -entropy - 1 < found.mean().item() < -entropy + ERRORS * error
    covariance = torch.cov(prior.sample(4000, seeded()).flatten(1).T).double()
    torch.testing.assert_close(covariance, known().factor @ known().factor.T, rtol=0, atol=0.15)
    assert {row["metric"] for row in rows} == {
        *("elbo", "log_likelihood", "kl", "conditional_elbo", "train_elbo")
    }
    last = {row["metric"]: row["value"] for row in rows[-5:]}
    assert last["elbo"] == pytest.approx(last["log_likelihood"] - last["kl"])
    drawn = prior.complete(test[:5], torch.zeros(3, 3, dtype=torch.bool), seeded(2))
    torch.testing.assert_close(drawn, prior.sample(5, seeded(2)))
    assert not torch.equal(prior.sample(5, seeded(2), mean=True), drawn)


def test_bounds_average_to_the_density_by_importance_sampling():
    # With 1e4 codes the bound is log p(w) nearly; the average of draws from p(z) is another estimate of it.
    torch.manual_seed(1)
    prior = ArbitraryConditioningVAE(2, hidden=6, latent=1).double().requires_grad_(False)
    prior.mean.fill_(0.3)
    prior.deviation.fill_(0.5)
    w = torch.randn(3, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    mask = torch.tensor([[1, 0], [0, 1]], dtype=torch.bool)
    seen = mask.view(1, 4).expand(3, 4)
    x = prior._standardised(w.flatten(1))
    mean, variance = prior._code_prior(x, seen)
    z = mean + variance.sqrt() * torch.randn(20_000, 3, 1, dtype=torch.float64)
    terms = torch.stack([prior._log_likelihood(x, code, seen) for code in z])
    expected = torch.logsumexp(terms, 0) - math.log(len(terms))
    torch.testing.assert_close(prior.conditional_log_prob(w, mask, 20_000), expected, rtol=0, atol=0.02)


def test_masks_for_training_are_of_all_forms():
    masks = random_masks(3000, 5, seeded())
    assert (masks.dtype, masks.shape) == (torch.bool, (3000, 25))
    share = masks.double().mean(1)
    assert (share == 0).double().mean().item() == pytest.approx(1 / 3, abs=0.06)
    assert 0.15 < share.mean() < 0.4
    middle = torch.zeros(5, 5, dtype=torch.bool)
    middle[1:4, 1:4] = True
    assert (masks == middle.flatten()).all(1).any()
    assert (masks[:, 0] != masks[:, 24]).any()


def test_hmc_is_refused():
    with pytest.raises(InputError, match="arbitrary_conditioning_vae has a bound on its density"):
        coordinates.of_prior(untrained("arbitrary_conditioning_vae"), torch.zeros(1))
