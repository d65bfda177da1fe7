"""Forms of posterior, and dropout."""

import math

import pytest
import torch
from bayesian_samples import PRIORS, layer_of
from network_samples import described
from torch import nn
from torch.distributions import Normal, kl_divergence

from dwp import Noise, make_bayesian, predict, set_noise
from dwp.bayes import objectives, posteriors, settings
from dwp.bayes.layers import BayesConv2d
from dwp.bayes.settings import FORMS
from dwp.errors import InputError
from dwp.nn.convnet import build
from dwp.nn.noise import Dropout
from dwp.priors.ard import ARD
from dwp.priors.base import KLEstimator
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.log_uniform import LogUniform
from dwp.priors.pairwise_augmented_gan import PairwiseAugmentedGAN
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

ERRORS = 4  # standard errors by which a Monte Carlo estimate may miss


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE(3, hidden=4, latent=2).double().requires_grad_(False)


# Gaussians over the weights


def test_initial_moments():
    weight = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    mean, log_variance = posteriors.build("additive", weight, PRIORS[5]).moments()
    assert torch.equal(mean, weight)
    assert bool((log_variance == -10).all())
    mean, log_variance = posteriors.build("truncated_alpha", weight, PRIORS[5]).moments()
    assert torch.equal(mean, weight)
    expected = torch.sigmoid(torch.tensor(-2.0, dtype=torch.float64)) * weight**2
    torch.testing.assert_close(log_variance.exp(), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("a", [-50.0, -2.0, 0.0, 3.0, 50.0])
def test_truncated_alpha_stays_between_zero_and_one(a):
    posterior = posteriors.build("truncated_alpha", torch.randn(4, 4, 3, 3, dtype=torch.float64), PRIORS[3])
    posterior.a.data.fill_(a)
    log_alpha = GaussianPosterior(*posterior.moments()).log_alpha()
    expected = torch.full_like(log_alpha, -math.log1p(math.exp(-a)))
    torch.testing.assert_close(log_alpha, expected, rtol=1e-9, atol=1e-12)
    assert bool((log_alpha <= 0).all())


def test_a_posterior_does_not_share_memory_with_the_weight():
    layer, convolution = layer_of()
    layer.posterior.mean.data.zero_()
    assert convolution.weight.abs().sum() > 0


def test_unknown_forms_are_refused():
    with pytest.raises(
        InputError, match="posterior: 'full' is not known; use one of additive, truncated_alpha"
    ):
        make_bayesian(nn.Sequential(nn.Conv2d(1, 1, 3)), PRIORS, "full")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize("log_variance", [-200.0, -100.0, -30.0, 0.0, 30.0])
@pytest.mark.parametrize("noise", list(Noise))
def test_extreme_variances_give_finite_values_and_gradients(dtype, x, log_variance, noise):
    layer = BayesConv2d(nn.Conv2d(2, 3, 3), PRIORS[3])
    layer.posterior.log_variance.data.fill_(log_variance)
    layer.noise = noise
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = layer(torch.full((2, 2, 6, 6), x))
        value = out.float().square().mean() + layer.kl()
    value.backward()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.posterior.parameters())


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(
    "prior",
    [StandardNormal(3), LogUniform(3), LogUniform(3, approximation="molchanov"), VAE(3, hidden=4, latent=2)],
)
def test_weights_of_zero_give_finite_values_and_gradients(form, prior):
    try:
        settings.find(form).check(prior.settings_class)
    except InputError:
        pytest.skip("this form does not go with this prior")
    convolution = nn.Conv2d(2, 3, 3)
    convolution.weight.data.zero_()
    layer = BayesConv2d(convolution, prior, form)
    value = layer(torch.ones(2, 2, 6, 6)).square().mean() + layer.kl()
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in layer.posterior.parameters())


# Point: MAP


def test_a_point_pays_the_negative_log_density():
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    posterior = posteriors.build("point", weight, StandardNormal(3, scale=0.7))
    scale = torch.tensor(0.7, dtype=torch.float64)
    expected = -Normal(0.0, scale).log_prob(weight).sum()
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-12, atol=0)
    assert torch.equal(posterior.weight(sampled=True), weight)


def test_the_subset_of_a_point_is_unbiased():
    torch.manual_seed(1)
    weight = torch.randn(10, 4, 3, 3, dtype=torch.float64)
    posterior = posteriors.build("point", weight, StandardNormal(3))
    with torch.no_grad():
        estimates = torch.stack([posterior.kl(KLEstimator(subset=7)) for _ in range(4000)])
    error = estimates.std() / math.sqrt(len(estimates))
    assert error > 0
    assert abs(estimates.mean() - posterior.kl().detach()) < ERRORS * error


def test_map_under_a_normal_prior_is_ridge_regression():
    torch.manual_seed(2)
    images, target = torch.randn(30, 1, 3, 3, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    layer = BayesConv2d(nn.Conv2d(1, 1, 3, bias=False).double(), StandardNormal(3, scale=0.5), "point")
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16
    )

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (layer(images).flatten() - target).square().sum() + layer.kl()
        loss.backward()
        return loss

    optimizer.step(closure)
    x = images.flatten(1)
    expected = torch.linalg.solve(x.T @ x + torch.eye(9, dtype=torch.float64) / 0.5**2, x.T @ target)
    torch.testing.assert_close(layer.posterior.value.detach().flatten(), expected, rtol=1e-5, atol=1e-7)


# Latent: DWR


@pytest.fixture(params=["vae", "gan"])
def coded(request, vae):
    if request.param == "vae":
        return vae
    torch.manual_seed(0)
    return PairwiseAugmentedGAN(3, hidden=4, latent=2).double().requires_grad_(False)


def test_latent_starts_from_the_codes_of_the_weight(coded):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    posterior = posteriors.build("latent", weight, coded)
    kernels = weight.view(12, 1, 3, 3)
    expected = coded.decode(coded.encode(kernels)[0])[0].view(4, 3, 3, 3)
    torch.testing.assert_close(posterior.weight(sampled=False), expected)


def test_latent_pays_the_kl_of_its_codes(coded):
    posterior = posteriors.build("latent", torch.randn(4, 3, 3, 3, dtype=torch.float64), coded)
    posterior.log_variance.data.normal_()
    q = Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    expected = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale))).sum()
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-5, atol=0)


def test_kernels_of_a_latent_posterior_stay_on_the_decoder(coded):
    posterior = posteriors.build("latent", torch.randn(50, 4, 3, 3, dtype=torch.float64), coded)
    posterior.mean.data.zero_()
    posterior.log_variance.data.zero_()
    torch.manual_seed(3)
    drawn = posterior.weight(sampled=True)
    torch.manual_seed(3)
    codes = torch.randn(200, 2, dtype=torch.float64)
    torch.testing.assert_close(drawn, coded.decode(codes)[0].view(50, 4, 3, 3))


def test_gradients_reach_the_codes_and_not_the_decoder(coded):
    layer = BayesConv2d(nn.Conv2d(2, 3, 3).double(), coded, "latent")
    (layer(torch.randn(2, 2, 6, 6, dtype=torch.float64)).square().sum() + layer.kl()).backward()
    assert layer.posterior.mean.grad.abs().min() > 0
    assert layer.posterior.log_variance.grad.isfinite().all()
    assert all(parameter.grad is None for parameter in coded.parameters())


# Compatible posteriors and priors


@pytest.mark.parametrize(
    ("form", "prior", "message"),
    [
        ("point", LogUniform(3), "posterior point: prior log_uniform has no density"),
        ("point", ARD(3), "posterior point: prior ard has no density"),
        ("latent", StandardNormal(3), "posterior latent: prior standard_normal has no latent code"),
        ("full", StandardNormal(3), "'full' is not known; use one of additive, truncated_alpha, point, lat"),
    ],
)
def test_forms_refuse_priors_that_do_not_go_with_them(form, prior, message):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    with pytest.raises(InputError, match=message):
        make_bayesian(model, {3: prior}, form)
    assert all(isinstance(layer, nn.Conv2d) for layer in model)


def test_a_layer_of_its_own_prior_goes_before_the_size():
    own, shared = StandardNormal(3, scale=2.0), StandardNormal(3)
    model = make_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)), {3: shared, "1": own})
    assert [layer.posterior.prior.scale for layer in model] == [shared.scale, own.scale]


# Dropout


def test_dropout_leaves_out_whole_channels_and_keeps_the_mean():
    layer, x = Dropout(0.3), torch.ones(4000, 5, 3, 3)
    torch.manual_seed(4)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert bool((out == out[:, :, :1, :1]).all())
    kept = (out[:, :, 0, 0] > 0).double().mean(0)
    assert bool(((kept - 0.7).abs() < ERRORS * math.sqrt(0.21 / 4000)).all())
    assert len(out[:, :, 0, 0].unique(dim=0)) > 10


def test_dropout_of_a_sample_is_the_same_for_all_images():
    layer = Dropout(0.5)
    layer.noise = Noise.WEIGHTS
    out = layer(torch.ones(20, 64))
    assert bool((out == out[:1]).all())
    assert 0 < (out > 0).double().mean() < 1
    layer.noise = Noise.NONE
    assert bool((layer(torch.ones(20, 64)) == 1).all())


def test_members_of_mc_dropout_do_not_depend_on_the_chunk():
    network = described([{"conv": 6, "kernel": 3, "pool": 2}], dropout=0.4)
    model = build(network, (1, 8, 8), 3)
    images = torch.randn(20, 1, 8, 8)
    whole, parts = (predict(model, images, 4, chunk=chunk) for chunk in (20, 7))
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole[0], whole[1])
    set_noise(model, Noise.OUTPUTS)
    assert not torch.allclose(model(images), model(images))


# Networks side by side


def test_losses_together_are_their_sum_and_terms_their_means():
    torch.manual_seed(5)
    network = described([{"conv": 2, "kernel": 3, "pool": 2}])
    models = [build(network, (1, 8, 8), 3) for _ in range(3)]
    batch = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    losses = [objectives.cross_entropy(model, 0.1) for model in models]
    value, terms = objectives.together(losses)(*batch)
    alone = [loss(*batch) for loss in losses]
    torch.testing.assert_close(value, sum(one for one, _ in alone))
    torch.testing.assert_close(terms["train_nll"], sum(one["train_nll"] for _, one in alone) / 3)
