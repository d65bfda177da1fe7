"""Hamiltonian Monte Carlo: coordinates of priors, the chain against closed forms, and networks."""

import math

import pytest
import torch
from prior_helpers import seeded
from torch import nn
from torch.distributions import Normal

from dwp.bayes.coordinates import of_prior
from dwp.bayes.hmc import HMC, Chain
from dwp.bayes.sampling import NetworkPosterior, sample, sample_posterior
from dwp.errors import InputError
from dwp.nn.seeding import seeded as rng
from dwp.priors.empirical import Empirical
from dwp.priors.gaussian import Gaussian
from dwp.priors.log_uniform import LogUniform
from dwp.priors.mixture import Mixture
from dwp.priors.pairwise_augmented_gan import PairwiseAugmentedGAN
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.student_t import StudentT
from dwp.priors.vae import VAE
from dwp.priors.whitened_vae import WhitenedVAE
from dwp.training.checkpoints import Checkpoint


def gaussian(size):
    torch.manual_seed(0)
    prior = Gaussian(size).double()
    prior.mean.copy_(0.1 * torch.randn(size**2))
    prior.factor.copy_(0.1 * torch.eye(size**2) + 0.02 * torch.randn(size**2, size**2).tril())
    return prior


def student_t(freedom=1.5):
    prior, like = StudentT(3).double(), gaussian(3)
    prior.mean.copy_(like.mean)
    prior.factor.copy_(like.factor)
    prior.freedom.fill_(freedom)
    return prior


def mixture():
    torch.manual_seed(0)
    prior = Mixture(2, components=2, norms=3).double()
    prior.whitening.add_(0.3 * torch.randn(2, 4, 4).tril(-1))
    prior.shift.copy_(torch.randn(2, 4))
    prior.log_norm.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    prior.log_norm_std.copy_(torch.tensor([0.3, 0.5, 0.2]))
    return prior


def vae(**settings):
    torch.manual_seed(0)
    return VAE(3, hidden=4, latent=2, **settings).double().requires_grad_(False)


def whitened():
    prior = WhitenedVAE(3, hidden=4, latent=2).double().requires_grad_(False)
    prior.vae = vae()
    prior.mean.copy_(torch.linspace(-0.2, 0.3, 9))
    draws = 0.2 * torch.randn(9, 9, generator=seeded(5), dtype=torch.double)
    prior.root.copy_(draws @ draws.T + 0.1 * torch.eye(9))
    return prior


PRIORS = {
    "gaussian": gaussian(3),
    "standard_normal": StandardNormal(3, 0.2),
    "student_t": student_t(),
    "mixture": mixture(),
    "vae": vae(),
    "vamp": vae(code_prior="vamp", pseudo_inputs=3),
    "whitened_vae": whitened(),
}


@pytest.mark.parametrize("name", PRIORS)
def test_coordinates_lead_back_to_the_kernels(name):
    prior = PRIORS[name]
    found = of_prior(prior, prior.sample(1))
    w = prior.sample(6, seeded(1))
    torch.testing.assert_close(found.kernels(found.at(w)), w)


@pytest.mark.parametrize("name", ["gaussian", "standard_normal", "mixture"])
def test_linear_coordinates_have_the_density_of_the_prior_up_to_a_constant(name):
    prior = PRIORS[name]
    found = of_prior(prior, prior.sample(1))
    x = torch.randn(5, prior.kernel_size**2, dtype=prior.sample(1).dtype, generator=seeded(2))
    ratio = torch.stack([found.log_ratio(one[None]) for one in x]) if not found.exact else 0
    difference = prior.log_prob(found.kernels(x)) + 0.5 * x.square().sum(1) - ratio
    torch.testing.assert_close(difference, difference[:1].expand(5))


def test_scale_mixtures_have_the_density_of_a_student_t():
    prior = PRIORS["student_t"]
    found = of_prior(prior, prior.sample(1))
    w = prior.sample(3, seeded(1))
    centred = torch.linalg.solve_triangular(prior.factor, (w.flatten(1) - prior.mean).T, upper=False).T
    # The integral over η of the joint density of w and η; e is a multiple of the whitened kernel.
    eta = torch.linspace(-12, 8, 20_001, dtype=torch.double)[:, None]
    joint = []
    for one, kernel in zip(centred, w, strict=True):
        precision = (found.mean + found.deviation * eta).exp()
        x = torch.cat([one * precision.sqrt(), eta], 1)
        torch.testing.assert_close(found.kernels(x[:3]), kernel.expand(3, 1, 3, 3))
        ratio = torch.stack([found.log_ratio(point[None]) for point in x])
        change = 0.5 * 9 * precision.log()[:, 0]
        joint.append(torch.logsumexp(Normal(0.0, 1.0).log_prob(x).sum(1) + ratio + change, 0))
    difference = torch.stack(joint) - prior.log_prob(w)
    torch.testing.assert_close(difference, difference[:1].expand(3), rtol=0, atol=1e-6)


def test_a_chain_moves_under_heavy_tails():
    torch.manual_seed(0)
    found = of_prior(student_t(1.5), torch.zeros(1, dtype=torch.double))
    start = {"w": found.at(student_t(1.5).sample(200, seeded(1)))}
    chain = Chain(lambda point: -found.log_ratio(point["w"]), start, HMC(trajectory=1.5))
    for _ in range(30):
        chain.advance(adapt=True)
    draws = []
    accepted = 0.0
    for _ in range(100):
        accepted += chain.advance(adapt=False)
        draws.append((found.mean + found.deviation * chain.point["w"][:, -1]).exp())
    assert accepted > 50
    # λ ~ Gamma(0.75, rate 0.75): 20,000 correlated draws.
    below = (torch.stack(draws) < 1).double().mean().item()
    assert below == pytest.approx(
        torch.special.gammainc(torch.tensor(0.75), torch.tensor(0.75)).item(), abs=0.03
    )


@pytest.mark.parametrize("name", ["vae", "vamp"])
def test_codes_have_the_joint_density_of_kernel_and_code(name):
    prior = PRIORS[name]
    found = of_prior(prior, prior.sample(1))
    x = torch.randn(1, 2 + 9, dtype=torch.float64, generator=seeded(2))
    mean, variance = prior.decode(x[:, :2])
    joint = Normal(mean, variance.sqrt()).log_prob(found.kernels(x)).sum() + prior.code_log_prob(x[:, :2])
    # The change of variables: the weights are wider than the noise by the deviations.
    joint = joint + 0.5 * variance.log().sum()
    density = Normal(0.0, 1.0).log_prob(x).sum() + (0 if found.exact else found.log_ratio(x))
    constant = 0.0 if found.exact else math.log(2 * math.pi)
    torch.testing.assert_close(joint[0], density + constant)


def test_whitened_codes_are_the_codes_of_the_whitened_kernel():
    prior = PRIORS["whitened_vae"]
    found, inner = of_prior(prior, prior.sample(1)), of_prior(prior.vae, prior.sample(1))
    x = torch.randn(4, 2 + 9, dtype=torch.float64, generator=seeded(2))
    torch.testing.assert_close(prior.whiten(found.kernels(x)), inner.kernels(x))
    assert found.exact
    assert found.prior is prior


def test_a_prior_without_a_density_or_samples_has_no_coordinates():
    kernels = torch.randn(8, 1, 3, 3, generator=seeded(0))
    with pytest.raises(InputError, match="log_uniform"):
        of_prior(LogUniform(3), kernels)
    with pytest.raises(InputError, match="no density"):
        of_prior(Empirical.fit(kernels, kernels, {}, seed=0)[0], kernels)
    with pytest.raises(InputError, match="no density"):
        of_prior(PairwiseAugmentedGAN(3, hidden=4), kernels)


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


@pytest.mark.parametrize("prior", [vae().float(), StandardNormal(3, 0.5)], ids=["vae", "standard normal"])
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
