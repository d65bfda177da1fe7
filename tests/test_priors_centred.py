"""The prior around the weights of a source network: density, KL, MAP, samples, few-shot methods."""

import copy

import pytest
import torch
from configurations import FEW_SHOT, plan
from experiment_samples import dataset, fitted, pretrained, run
from prior_helpers import seeded
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from dwp import make_bayesian
from dwp.bayes import objectives
from dwp.bayes.coordinates import of_prior
from dwp.bayes.layers import bayesian_layers
from dwp.errors import InputError
from dwp.priors.base import KLEstimator
from dwp.priors.centred import Centred
from dwp.priors.distributions import GaussianPosterior

__all__ = ["dataset", "fitted", "pretrained", "run"]

CENTRE = torch.randn(4, 3, 5, 5, generator=seeded(1), dtype=torch.float64)


def weights(seed=2):
    return CENTRE + 0.2 * torch.randn(CENTRE.shape, generator=seeded(seed), dtype=torch.float64)


def test_the_density_is_a_gaussian_around_each_kernel():
    expected = Normal(CENTRE, 0.3).log_prob(weights()).sum((2, 3))
    torch.testing.assert_close(Centred(CENTRE, 0.3).log_prob(weights()), expected)


@pytest.mark.parametrize("estimator", [KLEstimator(), KLEstimator(subset=3, posterior_samples=2)])
def test_the_kl_is_that_of_two_gaussians_with_any_estimator(estimator):
    deviation = 0.05 + torch.rand(CENTRE.shape, generator=seeded(3), dtype=torch.float64)
    q, prior = Normal(weights(), deviation), Centred(CENTRE, 0.3)
    expected = kl_divergence(q, Normal(CENTRE, torch.full_like(CENTRE, 0.3))).sum()
    torch.testing.assert_close(prior.kl(Independent(q, 4), estimator), expected)
    own = GaussianPosterior(*(x.view(12, 1, 5, 5) for x in (q.loc, 2 * q.scale.log())))
    torch.testing.assert_close(prior.cross_entropy(own, estimator), expected + q.entropy().sum())


def test_map_is_the_l2_penalty_of_the_distance_from_the_source_network():
    # L2-SP (Li et al. 2018): α/2·‖w - w₀‖² with α = 1 / (scale²·examples).
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(16, 3)).double()
    bayesian = make_bayesian(copy.deepcopy(model), {"0": Centred(CENTRE, 0.3)}, "point")
    images, labels = torch.rand(6, 3, 6, 6, dtype=torch.float64), torch.arange(6) % 3
    estimator = KLEstimator(subset=2, posterior_samples=3)
    value, _ = objectives.elbo(bayesian, 20, estimator)(images, labels)
    weight = model[0].weight
    penalty = 0.5 / (0.3**2 * 20) * (weight - CENTRE).square().sum()
    expected, _ = objectives.cross_entropy(model)(images, labels)
    (found,) = torch.autograd.grad(value, bayesian[0].posterior.value)
    (wanted,) = torch.autograd.grad(expected + penalty, weight)
    torch.testing.assert_close(found, wanted)


def test_samples_are_around_the_weights_in_their_order():
    draws = torch.stack([Centred(CENTRE, 0.3).sample(12, seeded(i)) for i in range(2000)])
    torch.testing.assert_close(draws.mean(0).view_as(CENTRE), CENTRE, rtol=0, atol=0.04)
    torch.testing.assert_close(draws.std(0).mean().item(), 0.3, rtol=0.01, atol=0)


def test_coordinates_are_exact():
    prior = Centred(CENTRE, 0.3)
    found = of_prior(prior, CENTRE)
    x = torch.randn(12, 25, generator=seeded(4), dtype=torch.float64)
    assert found.exact
    torch.testing.assert_close(found.kernels(x), CENTRE.view(12, 1, 5, 5) + 0.3 * x.view(12, 1, 5, 5))
    torch.testing.assert_close(found.at(found.kernels(x)), x)


def test_another_number_of_kernels_is_refused():
    prior = Centred(CENTRE, 0.3)
    for wrong in (lambda: prior.log_prob(CENTRE[:2]), lambda: prior.sample(5)):
        with pytest.raises(InputError, match=r"centred: \d+ kernels; it is over the 12 of one layer"):
            wrong()
    with pytest.raises(InputError, match="scale is 0; expected a number above 0"):
        Centred(CENTRE, 0)


METHOD = {"posterior": "additive", "prior": "pretrained", "prior_scale": 0.05, "init": {"from": "pretrained"}}


@pytest.mark.parametrize("posterior", ["additive", "point", "hmc"])
def test_few_shot_methods_with_it(run, fitted, pretrained, posterior):
    rows = run("few_shot", METHOD | {"posterior": posterior}, [3])
    assert {row["metric"] for row in rows} >= {"accuracy", "nll"}
    if posterior != "hmc":
        ((models, _, _),) = fitted
        for name, layer in zip(("conv1", "conv2"), bayesian_layers(models), strict=True):
            prior = layer.posterior.prior
            assert prior.scale == 0.05
            torch.testing.assert_close(
                prior.centre.view(layer.posterior.shape), pretrained[3][f"{name}.weight"]
            )


def test_a_configuration_with_it_plans():
    made = plan({"experiments": {"few_shot": {"methods": {"mine": METHOD}}}})
    assert set(made.methods["few_shot", "mine"].inputs) == {"dataset", "outliers", "pretrained"}


def test_its_scale_can_be_tuned():
    few_shot = {
        "tuning": {"trials": 3, "examples": [50], "seeds": 1, "metric": "brier"},
        "methods": {"mine": METHOD | {"prior_scale": None, "space": {"prior_scale": [0.01, 0.03, 0.1]}}},
    }
    made = plan({"experiments": {"few_shot": few_shot}})
    scales = {trial.method.prior_scale for trial in made.config.trials["few_shot"]["mine"]}
    assert scales == {0.01, 0.03, 0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": {"from": "he"}}, "prior: 'pretrained' needs init.from pretrained"),
        ({"prior": {"7x7": "pretrained", "5x5": "gaussian"}}, "'pretrained' is for the whole network"),
        ({"posterior": "latent"}, "prior: 'pretrained' with posterior 'latent': centred has no latent code"),
        (
            {"posterior": "none", "prior": None},
            "prior_scale: 0.05 goes with prior pretrained; here it is None",
        ),
        ({"prior_scale": None}, "prior_scale: missing; prior 'pretrained' needs one"),
        ({"prior": "gaussian"}, "prior_scale: 0.05 goes with prior pretrained; here it is 'gaussian'"),
    ],
)
def test_what_does_not_go_with_it_is_refused(change, message):
    with pytest.raises(InputError, match=message) as error:
        plan({"experiments": {"few_shot": {"methods": {"mine": METHOD | change}}}})
    assert f"{FEW_SHOT}.methods.mine" in str(error.value)
