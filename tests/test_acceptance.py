"""The acceptance objective of Bayesian networks: closed forms, a conjugate model, gradients, few-shot."""

import math

import pytest
import torch
from experiment_samples import METHODS, dataset, fitted, pretrained, run
from scipy.stats import kstest, norm
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from dwp import make_bayesian
from dwp.bayes import objectives, posteriors
from dwp.errors import InputError
from dwp.nn.noise import Noise
from dwp.priors.gaussian import Gaussian
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

__all__ = ["dataset", "fitted", "pretrained", "run"]


def one_layer(mean, deviation, prior=None):
    """Return a Gaussian posterior over the weights of a linear layer, in double precision."""
    posterior = posteriors.build("additive", mean, prior or StandardNormal(1))
    posterior.log_variance.data.fill_(2 * math.log(deviation))
    return posterior


def test_the_log_ratio_is_that_of_both_densities():
    torch.manual_seed(0)
    prior = Gaussian(3).double()
    prior.factor.add_(0.3 * torch.randn(9, 9).tril(-1))
    posterior = posteriors.build("additive", torch.randn(4, 2, 3, 3, dtype=torch.float64), prior)
    posterior.log_variance.data.normal_()
    w = posterior.weight(sampled=True)
    q = Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    p = MultivariateNormal(prior.mean, scale_tril=prior.factor)
    expected = q.log_prob(w).sum() - p.log_prob(w.reshape(8, 9)).sum()
    torch.testing.assert_close(posterior.log_ratio(w), expected)


def test_the_bounds_hold_for_shifted_gaussians():
    # J = KL(q || p) + KL(p || q) = ‖m‖², and the acceptance rate is erfc(‖m‖ / 2).
    for shift in (0.1, 0.5, 1.0, 2.0, 4.0):
        rate, divergence = math.erfc(shift / 2), shift**2
        assert rate > 1 - math.sqrt(divergence / 2)
        assert rate > 0.5 * math.exp(-divergence)


def test_the_expected_log_ratio_is_the_symmetric_divergence():
    mean, deviation = torch.tensor([[0.8, -0.3, 0.5]], dtype=torch.float64), 0.7
    posterior = one_layer(mean, deviation)
    q, p = Normal(mean, deviation), Normal(torch.zeros_like(mean), 1.0)
    torch.manual_seed(1)
    with torch.no_grad():
        proposed = torch.stack([posterior.log_ratio(posterior.weight(sampled=True)) for _ in range(20_000)])
        exact = torch.stack([posterior.log_ratio(torch.randn_like(mean)) for _ in range(20_000)])
    expected = (kl_divergence(q, p) + kl_divergence(p, q)).sum().item()
    assert (proposed.mean() - exact.mean()).item() == pytest.approx(expected, abs=0.05)


def test_the_last_state_of_a_chain_has_the_distribution_of_the_target():
    # Proposals from N(0, 1), target N(0.8, 0.6²): log p - log q up to a constant.
    torch.manual_seed(2)
    last, rates = [], []
    for _ in range(3000):
        w = torch.randn(25, dtype=torch.float64)
        state, rate = objectives.independent_chain(0.5 * w.square() - 0.5 * ((w - 0.8) / 0.6).square() + 3)
        last.append(w[state].item())
        rates.append(rate.item())
    assert kstest(last, norm(0.8, 0.6).cdf).pvalue > 1e-3
    # The acceptance rate, by quadrature of the smaller of both products of densities.
    grid = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    target, proposal = (Normal(*moments).log_prob(grid).exp() for moments in ((0.8, 0.6), (0.0, 1.0)))
    product = torch.outer(target, proposal)
    expected = torch.minimum(product, product.T).sum().item() * 0.01**2
    variation = 0.5 * (product - product.T).abs().sum().item() * 0.01**2
    assert expected == pytest.approx(1 - variation, abs=1e-3)
    # The chain starts at the proposal, where the rate is another, so the bound is loose.
    assert sum(rates) / 3000 == pytest.approx(expected, abs=0.05)


def test_a_chain_whose_proposal_is_the_target_accepts_everything():
    state, rate = objectives.independent_chain(torch.full((6,), -3.0))
    assert (state, rate.item()) == (5, 1.0)


def regression():
    """Return inputs with orthogonal columns, targets, and the exact posterior under N(0, 0.5²), noise 1."""
    torch.manual_seed(4)
    x = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64))[0] * torch.tensor([1.0, 3.0, 6.0])
    y = x @ torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64) + torch.randn(12, dtype=torch.float64)
    precision = x.square().sum(0) + 4
    return x, y, x.T @ y / precision, precision**-0.5


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_optimum_is_the_exact_posterior_of_a_conjugate_model(monkeypatch, weight):
    x, y, *_ = regression()
    precision = x.square().sum(0) / weight + 4
    mean, deviation = x.T @ y / weight / precision, precision**-0.5

    def gaussian_nll(outputs, targets):
        return 0.5 * (outputs[:, 0] - targets).square().mean()

    monkeypatch.setattr(objectives.functional, "cross_entropy", gaussian_nll)
    layer = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(layer.weight)
    layer = make_bayesian(layer, {}, default=StandardNormal(1, scale=0.5))
    layer.posterior.log_variance.data.fill_(2 * math.log(0.3))
    loss = objectives.acceptance(layer, 12, weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    torch.manual_seed(5)
    accepted = []
    for step in range(2500):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 2500)
        optimizer.zero_grad()
        value, terms = loss(x, y)
        value.backward()
        optimizer.step()
        accepted.append(terms["acceptance"].item())
    q, log_variance = layer.posterior.moments()
    torch.testing.assert_close(q[0].detach(), mean, rtol=0, atol=0.02)
    torch.testing.assert_close((0.5 * log_variance).exp()[0].detach(), deviation, rtol=0.04, atol=0)
    assert sum(accepted[-200:]) / 200 > 0.92 > sum(accepted[:50]) / 50


def model():
    torch.manual_seed(6)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    return make_bayesian(network, {3: StandardNormal(3)})


def batch():
    torch.manual_seed(7)
    return torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3


def test_the_loss_is_the_elbo_of_the_draws_and_the_density_of_the_last_state(monkeypatch):
    bayesian, (images, labels) = model(), batch()
    monkeypatch.setattr(objectives, "independent_chain", lambda values: (2, torch.ones(())))
    torch.manual_seed(8)
    value, _ = objectives.acceptance(bayesian, 30, weight=0.5, samples=3)(images, labels)
    found = torch.autograd.grad(value, list(bayesian.parameters()))
    torch.manual_seed(8)
    posterior, others = bayesian[0].posterior, [bayesian[0].bias, *bayesian[3].parameters()]
    total, w = 0.0, None
    for _ in range(3):
        w = posterior.weight(sampled=True)
        features = nn.functional.conv2d(images, w, bayesian[0].bias).relu().flatten(1)
        nll = nn.functional.cross_entropy(bayesian[3](features), labels)
        total = total + (nll + 0.5 / 30 * posterior.log_ratio(w)) / 3
    q = Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    total = total - 0.5 / 30 * q.log_prob(w.detach()).sum()
    wanted = torch.autograd.grad(total, list(bayesian.parameters()))
    assert len(found) == 2 + len(others)
    for gradient, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert bayesian[0].noise is Noise.OUTPUTS


def test_the_terms_agree_with_the_elbo():
    bayesian, (images, labels) = model(), batch()
    torch.manual_seed(9)
    expected = objectives.elbo(bayesian, 30)
    with torch.no_grad():
        pairs = [
            (objectives.acceptance(bayesian, 30)(images, labels)[1], expected(images, labels)[1])
            for _ in range(200)
        ]
    for name in ("train_nll", "kl"):
        found, other = (torch.stack([terms[name] for terms in side]) for side in zip(*pairs, strict=True))
        assert found.mean().item() == pytest.approx(
            other.mean().item(), abs=5 * found.std().item() / math.sqrt(200) + 1e-9
        )


@pytest.mark.parametrize(
    ("form", "prior", "message"),
    [
        ("additive", VAE(3, hidden=4, latent=2), "prior vae has a bound on its density"),
        ("point", StandardNormal(3), "posterior Point has no density"),
    ],
)
def test_what_has_no_exact_ratio_is_refused(form, prior, message):
    network = make_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3)), {3: prior}, form)
    with pytest.raises(InputError, match=message):
        objectives.acceptance(network, 30)


@pytest.mark.parametrize("options", [{"weight": 0}, {"samples": 1}])
def test_other_arguments_are_refused(options):
    with pytest.raises(InputError, match="expected a positive weight and 2 samples or more"):
        objectives.acceptance(model(), 30, **options)
    with pytest.raises(InputError, match="a Linear without Bayesian layers"):
        objectives.acceptance(nn.Linear(2, 3), 30)


def test_layers_with_scales_are_refused():
    network = make_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3)), {3: StandardNormal(3)}, scales="horseshoe")
    with pytest.raises(InputError, match="the layers have scales"):
        objectives.acceptance(network, 30)


def test_few_shot_trains_with_it(run, fitted):
    method = METHODS["few_shot"]["standard_normal"] | {"objective": "acceptance", "log_variance": -4.0}
    rows = run("few_shot", method, [0])
    ((models, before, _),) = fitted
    assert (before["0.conv1.posterior.log_variance"] == -4).all()
    found = {row["metric"]: row["value"] for row in rows}
    assert 0 <= found["acceptance"] <= 1
    assert found["kl"] > 0
    moved = {name for name, value in models.state_dict().items() if not torch.equal(value, before[name])}
    assert {"0.conv1.posterior.mean", "0.conv1.posterior.log_variance", "0.classifier.weight"} <= moved
    assert run("few_shot", method, [0]) == rows
