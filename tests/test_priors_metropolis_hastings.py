"""The sampler trained for its acceptance rate: exact ratios, learned samples of known distributions."""

import math

import pytest
import torch
from prior_helpers import assert_resumes, seeded
from scipy.stats import kstest, norm
from test_priors_gan import FIT, SIZE, correlated, two_modes
from torch import nn
from torch.nn import functional

from dwp.errors import InputError
from dwp.priors.gaussian import Gaussian
from dwp.priors.metropolis_hastings import MetropolisHastings

SHIFT = torch.tensor([0.9, -0.4, 0.2, 0.6], dtype=torch.float64)


class ExactRatio(nn.Module):
    """log N(x; shift, I) - log N(x; 0, I) up to a constant, [n, d] to [n, 1]."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return x @ self.shift[:, None] + 5


def exact(**settings):
    """Return a prior with proposals from N(0, I) and the exact ratio for the target N(SHIFT, I)."""
    prior = MetropolisHastings(SIZE, hidden=4, **settings).double()
    prior.averaged["ratio"] = ExactRatio(SHIFT)
    return prior


def target(n, seed):
    return (SHIFT + torch.randn(n, SIZE**2, generator=seeded(seed), dtype=torch.float64)).view(
        n, 1, SIZE, SIZE
    )


def test_the_acceptance_rate_is_one_minus_the_total_variation():
    # For N(μ, I) and N(0, I), the total variation of the product and its mirror image is
    # 2·Φ(‖μ‖ / √2) - 1, that of two unit Gaussians at a distance of √2·‖μ‖.
    prior = exact()
    proposed = torch.randn(400_000, 1, SIZE, SIZE, generator=seeded(1), dtype=torch.float64)
    rate = prior.acceptance(target(400_000, 2), proposed).mean().item()
    variation = 2 * norm.cdf(SHIFT.norm().item() / math.sqrt(2)) - 1
    assert rate == pytest.approx(1 - variation, abs=0.002)


def test_the_objectives_are_lower_bounds_of_the_acceptance_rate():
    # The gap between kernels and samples is normal with mean ‖μ‖² and variance 2·‖μ‖².
    square = SHIFT.square().sum().item()
    gap = square + math.sqrt(2 * square) * torch.randn(400_000, generator=seeded(), dtype=torch.float64)
    jensen, logistic = -gap.clamp_min(0).mean(), -functional.softplus(gap).mean()
    rate = math.erfc(math.sqrt(square) / 2)
    assert logistic < jensen < math.log(rate)
    # Closed form of E log min(1, ξ) with ξ = exp(-gap).
    spread = math.sqrt(2 * square)
    closed = -(square * norm.cdf(square / spread) + spread * norm.pdf(square / spread))
    assert jensen.item() == pytest.approx(closed, abs=0.005)


def test_the_optimal_discriminator_is_the_log_ratio_of_the_densities():
    # On a line with a linear discriminator D(x) = a·x, the minimiser for N(m, 1) and N(0, 1) is a = m.
    x = 0.8 + torch.randn(300_000, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(300_000, generator=seeded(2), dtype=torch.float64)
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope], max_iter=50)

    def loss():
        optimizer.zero_grad()
        value = functional.softplus(slope * (y - x)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert slope.item() == pytest.approx(0.8, abs=0.01)


def test_a_step_with_the_exact_ratio_leaves_the_target_invariant():
    prior = exact()
    before = target(20_000, 3)
    after = prior.advance(before, seeded(4))
    moved = (after != before).flatten(1).any(1)
    assert moved.double().mean().item() == pytest.approx(math.erfc(SHIFT.norm().item() / 2), abs=0.012)
    for weight, mean in zip(after.flatten(1).T, SHIFT, strict=True):
        assert kstest(weight.numpy(), norm(mean.item()).cdf).pvalue > 1e-3


def test_the_chain_converges_from_the_proposal_to_the_target():
    draws = exact(proposals=60).sample(20_000, seeded(5)).flatten(1)
    torch.testing.assert_close(draws.mean(0), SHIFT, rtol=0, atol=0.04)
    torch.testing.assert_close(torch.cov(draws.T), torch.eye(4).double(), rtol=0, atol=0.06)
    proposals = exact(proposals=0).sample(20_000, seeded(5)).flatten(1)
    torch.testing.assert_close(proposals.mean(0), torch.zeros(4).double(), rtol=0, atol=0.04)


def test_each_network_has_the_gradient_of_its_own_loss():
    torch.manual_seed(0)
    prior = MetropolisHastings(SIZE, hidden=4).double()
    terms = prior.losses(correlated(64, 1).double())
    assert set(terms) == {f"train_{network}" for network in prior.trained}
    for network, module in prior.trained.items():
        for name, term in terms.items():
            parameters = list(module.parameters())
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            own = name == f"train_{network}"
            assert all((gradient is not None) == own for gradient in found), (network, name)


@pytest.mark.parametrize("draw", [correlated, two_modes])
def test_samples_have_the_moments_of_the_kernels(draw):
    test = draw(2000, 2)
    prior, rows = MetropolisHastings.fit(draw(4000, 1), test, FIT, seed=0)
    x, y = prior.whiten(test), prior.whiten(prior.sample(4000, seeded()))
    torch.testing.assert_close(y.mean(0), x.mean(0), rtol=0, atol=0.12)
    torch.testing.assert_close(torch.cov(y.T), torch.cov(x.T), rtol=0, atol=0.2)
    recorded = {row["metric"]: row["value"] for row in rows}
    assert recorded["acceptance"] > 0.75
    if draw is two_modes:
        sums = prior.sample(4000, seeded()).flatten(1).sum(1)
        assert (sums > 3).float().mean().item() == pytest.approx(0.4 * 0.97, abs=0.08)
        assert (sums < -3).float().mean().item() == pytest.approx(0.6 * 0.97, abs=0.08)
        # A Gaussian of this mean and covariance has a quarter of its draws between the modes.
        assert (sums.abs() < 2).float().mean() < 0.12


def test_an_untrained_prior_is_the_gaussian():
    train = correlated(500, 1).double()
    still = {"hidden": 4, "proposals": 0, "schedule": FIT["schedule"] | {"lr": 1e-15, "steps": 1}}
    prior, _ = MetropolisHastings.fit(train, train, still, seed=0)
    gaussian = Gaussian.fit(train, train, {})[0]
    torch.testing.assert_close(prior.sample(50, seeded(1)), gaussian.sample(50, seeded(1)))


def test_the_chain_corrects_a_generator_that_has_not_learned():
    # The ratio alone is trained: proposals stay Gaussian, and the chain finds the modes.
    train = two_modes(4000, 1)
    torch.manual_seed(0)
    gaussian = Gaussian.fit(train, train[:1], {})[0]
    prior = MetropolisHastings(SIZE, hidden=64).take_moments(gaussian)
    optimizer = torch.optim.Adam(prior.trained["ratio"].parameters(), lr=0.003)
    for step in range(400):
        optimizer.zero_grad()
        batch = train[torch.randint(4000, [256], generator=seeded(step))]
        prior.losses(batch)["train_ratio"].backward()
        optimizer.step()
    prior.averaged.load_state_dict(prior.trained.state_dict())

    def between(w):
        return (w.flatten(1).sum(1).abs() < 2).float().mean().item()

    assert between(gaussian.sample(4000, seeded())) == pytest.approx(0.25, abs=0.04)
    assert between(prior.sample(4000, seeded())) < 0.14


def test_a_resumed_fit_gives_the_same_prior(tmp_path, monkeypatch):
    train, test = correlated(200, 1), correlated(50, 2)
    short = FIT | {"hidden": 8, "schedule": FIT["schedule"] | {"steps": 12, "batch": 50}}
    assert_resumes(MetropolisHastings, train, test, short, tmp_path, monkeypatch)


def test_it_has_no_density():
    with pytest.raises(InputError, match="metropolis_hastings has no density; use it to draw samples"):
        MetropolisHastings(SIZE, hidden=4).log_prob(torch.zeros(3, 1, SIZE, SIZE))
