"""The acceptance objective of Bayesian networks: closed forms, a conjugate model, gradients, few-shot."""

import math

import pytest
import torch
from experiment_samples import METHODS, dataset, fitted, pretrained, run
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from dwp import make_bayesian
from dwp.bayes import objectives, posteriors
from dwp.bayes.layers import bayesian_layers
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


def log_ratios(posterior, draws=24_000):
    with torch.no_grad():
        return torch.stack([posterior.log_ratio(posterior.weight(sampled=True)) for _ in range(draws)])


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


def test_the_expected_log_acceptance_of_a_shifted_gaussian():
    # log q - log p is m·w for q = N(m, I) and p = N(0, I), so differences are normal with variance 2·‖m‖².
    mean = torch.tensor([[0.8, -0.3, 0.5]], dtype=torch.float64)
    torch.manual_seed(1)
    found = objectives.mean_difference(log_ratios(one_layer(mean, 1.0)).view(-1, 4).T).mean()
    assert found.item() == pytest.approx(mean.norm().item() / math.sqrt(math.pi), abs=0.02)


def test_the_expected_log_acceptance_of_a_wider_gaussian():
    # In two dimensions the squared norm over two is exponential, so log q - log p is (s² - 1) times that.
    torch.manual_seed(2)
    ratios = log_ratios(one_layer(torch.zeros(1, 2, dtype=torch.float64), 1.6))
    found = objectives.mean_difference(ratios.view(-1, 4).T).mean()
    assert found.item() == pytest.approx((1.6**2 - 1) / 2, abs=0.03)


def test_it_is_a_lower_bound_of_the_log_acceptance_rate_of_proposals():
    torch.manual_seed(3)
    r = -log_ratios(one_layer(torch.tensor([[0.6, 0.2]], dtype=torch.float64), 0.8), 20_000)
    here, there = r.chunk(2)
    rate = (there - here).clamp_max(0).exp().mean()
    bound = -objectives.mean_difference(torch.stack([here, there])).mean()
    torch.testing.assert_close(bound, (there - here).clamp_max(0).mean(), rtol=0, atol=0.02)
    assert bound < rate.log() < 0


def regression():
    """Return inputs with orthogonal columns, targets, and the exact posterior under N(0, 0.5²), noise 1."""
    torch.manual_seed(4)
    x = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64))[0] * torch.tensor([1.0, 3.0, 6.0])
    y = x @ torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64) + torch.randn(12, dtype=torch.float64)
    precision = x.square().sum(0) + 4
    return x, y, x.T @ y / precision, precision**-0.5


def energies(posterior, x, y, samples):
    drawn = [posterior.weight(sampled=True) for _ in range(samples)]
    nll = [0.5 * (y - x @ w[0]).square().sum() for w in drawn]
    return torch.stack([a + posterior.log_ratio(w) for a, w in zip(nll, drawn, strict=True)])


def test_the_exact_posterior_of_a_conjugate_model_is_accepted_always():
    x, y, mean, deviation = regression()
    posterior = one_layer(mean[None], 1.0, StandardNormal(1, scale=0.5))
    posterior.log_variance.data.copy_(2 * deviation.log())
    assert objectives.mean_difference(energies(posterior, x, y, 50)) < 1e-12
    posterior.mean.data[0, 1] += 0.1
    assert objectives.mean_difference(energies(posterior, x, y, 50)) > 0.01


def test_the_optimum_is_the_exact_posterior_of_a_conjugate_model():
    x, y, mean, deviation = regression()
    posterior = one_layer(torch.zeros(1, 3, dtype=torch.float64), 0.3, StandardNormal(1, scale=0.5))
    optimizer = torch.optim.Adam(posterior.parameters(), lr=0.02)
    torch.manual_seed(5)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 1500)
        optimizer.zero_grad()
        objectives.mean_difference(energies(posterior, x, y, 4)).backward()
        optimizer.step()
    q, log_variance = posterior.moments()
    torch.testing.assert_close(q[0].detach(), mean, rtol=0, atol=0.01)
    torch.testing.assert_close((0.5 * log_variance).exp()[0].detach(), deviation, rtol=0.02, atol=0)


def model():
    torch.manual_seed(6)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    return make_bayesian(network, {3: StandardNormal(3)})


def batch():
    torch.manual_seed(7)
    return torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3


def test_each_part_of_the_network_has_its_own_gradient():
    # The posterior that of the log acceptance, other parameters that of the NLL.
    bayesian, (images, labels) = model(), batch()
    torch.manual_seed(8)
    value, terms = objectives.acceptance(bayesian, 30, weight=0.5)(images, labels)
    posterior = list(bayesian_layers(bayesian)[0].posterior.parameters())
    others = [bayesian[0].bias, *bayesian[3].parameters()]
    found = torch.autograd.grad(value, [*posterior, *others], retain_graph=True)
    log_acceptance, nll = terms["log_acceptance"], terms["train_nll"]
    by_rate = torch.autograd.grad(-log_acceptance * 0.5 / 30, posterior, retain_graph=True)
    by_nll = torch.autograd.grad(nll, others)
    for gradient, expected in zip(found, [*by_rate, *by_nll], strict=True):
        torch.testing.assert_close(gradient, expected)
    assert log_acceptance < 0 < nll
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
    method = METHODS["few_shot"]["standard_normal"] | {"objective": "acceptance"}
    rows = run("few_shot", method, [0])
    ((models, before, _),) = fitted
    found = {row["metric"]: row["value"] for row in rows}
    assert found["log_acceptance"] < 0
    assert found["kl"] > 0
    moved = {name for name, value in models.state_dict().items() if not torch.equal(value, before[name])}
    assert {"0.conv1.posterior.mean", "0.conv1.posterior.log_variance", "0.classifier.weight"} <= moved
    assert run("few_shot", method, [0]) == rows
