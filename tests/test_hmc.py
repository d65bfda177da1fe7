"""Hamiltonian Monte Carlo: the chain against closed forms, and networks."""

import math

import pytest
import torch
from prior_helpers import seeded, vae
from torch import nn

from dwp.bayes.hmc import HMC, Chain
from dwp.bayes.sampling import NetworkPosterior, sample, sample_posterior
from dwp.errors import InputError
from dwp.nn.seeding import seeded as rng
from dwp.priors.standard_normal import StandardNormal
from dwp.training.checkpoints import Checkpoint


def test_a_chain_has_the_moments_of_a_linear_regression():
    matrix = torch.randn(6, 4, dtype=torch.float64, generator=seeded(0))
    target = torch.randn(6, dtype=torch.float64, generator=seeded(1))

    def potential(point):
        return 2 * (target - matrix @ torch.cat([point["a"], point["b"]])).square().sum()

    covariance = torch.linalg.inv(torch.eye(4) + 4 * matrix.T @ matrix)
    mean = 4 * covariance @ matrix.T @ target
    start = {"a": torch.zeros(1, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}
    with rng(0):
        chain = Chain(potential, start, HMC(trajectory=1.5))
        for _ in range(100):
            chain.advance(adapt=True)
        rates, draws = [], []
        for _ in range(2_000):
            rates.append(chain.advance(adapt=False))
            draws.append(torch.cat([chain.point["a"], chain.point["b"]]))
    x = torch.stack(draws)
    deviation = covariance.diagonal().sqrt()
    assert 0.7 < sum(rates) / len(rates) < 0.9
    # Five standard errors of some 500 independent draws.
    assert ((x.mean(0) - mean).abs() / deviation).max() < 5 / 500**0.5
    correlation = (torch.cov(x.T) - covariance) / torch.outer(deviation, deviation)
    assert correlation.abs().max() < 5 * (2 / 500) ** 0.5


def test_without_a_likelihood_the_motion_is_exact():
    with rng(0):
        start = {"x": torch.randn(1_000, dtype=torch.float64)}
        chain = Chain(lambda point: 0 * point["x"].sum(), start, HMC(trajectory=1.5, step_size=0.4))
        assert chain.advance(adapt=False) > 1 - 1e-9
        # A rotation by about a right angle: independent of the start, with the same distribution.
        x = chain.point["x"]
        assert abs(torch.corrcoef(torch.stack([x, start["x"]]))[0, 1]) < 0.4
        assert 0.9 < x.std() < 1.1


def test_a_potential_that_is_not_finite_rejects_the_trajectory():
    def potential(point):
        return torch.where(point["x"] > 0.5, math.inf, 0.0).sum() + 0 * point["x"].sum()

    with rng(0):
        chain = Chain(potential, {"x": torch.zeros(1)})
        for _ in range(100):
            chain.advance(adapt=False)
            assert chain.point["x"] <= 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_start_without_a_finite_potential_is_refused(value):
    with pytest.raises(InputError, match=f"the negative log posterior is {value} at the start"):
        Chain(lambda point: value * point["x"].sum(), {"x": torch.ones(2)})


@pytest.mark.parametrize("settings", [{"trajectory": 0}, {"acceptance": 1}, {"step_size": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        HMC(**settings)


def problem():
    """A network with kernels, a norm, biases and a linear layer; images of rows and columns."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 2),
    )
    rows = torch.arange(8.0).mul(2).sin().view(8, 1).expand(8, 8)
    images = torch.stack([rows, rows.T] * 6)[:, None] + 0.1 * torch.randn(12, 1, 8, 8)
    return model, images, torch.tensor([0, 1] * 6)


@pytest.mark.parametrize("prior", [vae(latent=2), StandardNormal(3, 0.5)], ids=["vae", "standard normal"])
def test_a_chain_starts_from_the_network_and_learns(prior):
    model, images, labels = problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    posterior = NetworkPosterior(model, prior, images, labels, default="standard_normal")
    start = posterior.parameters(posterior.start())
    torch.testing.assert_close(start, dict(model.named_parameters()), rtol=1e-4, atol=1e-5)
    samples, rows = sample(posterior, 400, seed=0, every=200)
    assert samples.predict(images).mean(0).argmax(1).eq(labels).all()
    assert [row["metric"] for row in rows] == ["acceptance"] * len(rows)
    assert rows[-1]["step"] >= 400
    assert 0.2 < rows[-1]["value"] <= 1
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert len(samples.thinned(5)) == 5
    assert len(samples.thinned(10_000)) == len(samples)


def test_a_large_weight_of_the_prior_gives_the_prior():
    model, images, labels = problem()
    posterior = NetworkPosterior(
        model, StandardNormal(3, 0.5), images, labels, default="standard_normal", weight=1e6
    )
    samples, _ = sample(posterior, 600, seed=0, settings=HMC(trajectory=1.5))
    weights = torch.stack([one["0.weight"] for one in samples.parameters])
    assert weights.std().item() == pytest.approx(0.5, rel=0.1)
    assert weights.mean().item() == pytest.approx(0, abs=0.05)


def test_a_chain_resumes_where_it_stopped(tmp_path):
    def posterior():
        model, images, labels = problem()
        return NetworkPosterior(model, StandardNormal(3, 0.5), images, labels, default="standard_normal")

    whole, rows = sample(posterior(), 200, seed=0)
    # A shorter chain has another warm-up, so the state of the long one is saved and then kept.
    checkpoint = Checkpoint(tmp_path / "chain.pt", "x", seconds=0)
    saved, first = [], checkpoint.save

    def save_once(state):
        if not saved and state["kept"]:
            saved.append(state["chain"]["gradients"])
            first(state)

    checkpoint.save = save_once
    sample(posterior(), 200, seed=0, checkpoint=checkpoint)
    assert saved[0] < 200
    resumed, again = sample(posterior(), 200, seed=0, checkpoint=Checkpoint(tmp_path / "chain.pt", "x"))
    assert again == rows
    torch.testing.assert_close(resumed.parameters, whole.parameters, rtol=0, atol=0)


def test_coordinates_have_the_precision_of_the_weights():
    model, images, labels = problem()
    posterior = NetworkPosterior(
        model.double(), StandardNormal(3, 0.5), images.double(), labels, default="standard_normal"
    )
    assert {x.dtype for x in posterior.start().values()} == {torch.float64}
    samples, _ = sample(posterior, 60, seed=0)
    assert {x.dtype for x in samples.parameters[0].values()} == {torch.float64}


@pytest.mark.parametrize(("weight", "reported"), [(1e-8, True), (1.0, False)])
def test_a_chain_that_hardly_moves_is_reported(weight, reported, caplog):
    model, images, labels = problem()
    posterior = NetworkPosterior(
        model, StandardNormal(3, 0.5), images, labels, default="standard_normal", weight=weight
    )
    rows = sample(posterior, 60, seed=0, settings=HMC(step_size=0.3), label="here")[1]
    (acceptance,) = [row["value"] for row in rows if row["metric"] == "acceptance"]
    assert (acceptance < 0.05) == reported
    assert ("here: after the warm-up" in caplog.text) == reported


def test_a_weight_of_zero_is_refused():
    model, images, labels = problem()
    with pytest.raises(InputError, match="weight is 0"):
        NetworkPosterior(model, StandardNormal(3, 0.5), images, labels, weight=0)


def test_the_short_form_is_the_same_chain():
    model, images, labels = problem()
    prior = StandardNormal(3, 0.5)
    found = sample_posterior(model, prior, images, labels, 100, seed=3)
    posterior = NetworkPosterior(model, prior, images, labels, default="standard_normal")
    expected, _ = sample(posterior, 100, seed=3)
    torch.testing.assert_close(found.parameters, expected.parameters, rtol=0, atol=0)
