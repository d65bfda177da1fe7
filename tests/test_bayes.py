"""Bayesian layers and the ELBO, against closed forms and the layers that they replace."""

import math

import pytest
import scipy.stats
import torch
from bayesian_samples import CONVOLUTIONS, PRIORS, images, layer_of, output_moments, small_net
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

import dwp
from dwp import Noise, make_bayesian, predict, set_noise
from dwp.bayes import objectives
from dwp.bayes.layers import BayesConv2d, bayesian_layers
from dwp.bayes.settings import FORMS
from dwp.errors import InputError
from dwp.priors.base import KLEstimator
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

# Layers


@pytest.mark.parametrize("arguments", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_without_noise_it_is_the_convolution_that_it_replaces(arguments):
    layer, convolution = layer_of(**arguments)
    layer.noise = Noise.NONE
    torch.testing.assert_close(layer(images()), convolution(images()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arguments", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_moments_of_the_outputs(arguments):
    layer, convolution = layer_of(**arguments)
    x = images()
    mean, variance = output_moments(layer, convolution, x)
    with torch.no_grad():
        for noise in (Noise.OUTPUTS, Noise.WEIGHTS):
            layer.noise = noise
            draws = torch.stack([layer(x) for _ in range(1500)])
            z = (draws.mean(0) - mean) / (variance / 1500).sqrt()
            # The worst of hundreds of outputs: five standard errors.
            assert z.abs().max() < 5, noise
            relative = draws.var(0) / variance
            assert (relative - 1).abs().max() < 5 * math.sqrt(2 / 1500), noise


def test_noise_of_outputs_and_of_weights_have_one_distribution():
    layer, _ = layer_of()
    x = images(1)
    draws = []
    with torch.no_grad():
        for noise in (Noise.OUTPUTS, Noise.WEIGHTS):
            layer.noise = noise
            draws.append(torch.stack([layer(x)[0, 2, 1, 3] for _ in range(1500)]).numpy())
    assert scipy.stats.ks_2samp(*draws).pvalue > 1e-3


def test_outputs_are_noisy_one_by_one_and_weights_for_all_images():
    layer, _ = layer_of()
    twins = images(1).repeat(2, 1, 1, 1)
    layer.noise = Noise.OUTPUTS
    first, second = layer(twins)
    assert not torch.equal(first, second)
    layer.noise = Noise.WEIGHTS
    first, second = layer(twins)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    assert not torch.equal(layer(twins), layer(twins))


def test_train_and_eval_do_not_touch_the_noise():
    layer, _ = layer_of()
    for noise in Noise:
        layer.noise = noise
        assert layer.eval().noise is layer.train().noise is noise


def test_kernels_are_in_the_order_of_the_weight():
    layer, convolution = layer_of(groups=2)
    kernels = layer.posterior.kernels()
    assert kernels.mean.shape == kernels.log_variance.shape == (6 * 2, 1, 3, 3)
    assert torch.equal(kernels.mean[2 * 2 + 1, 0], convolution.weight[2, 1])
    assert torch.equal(kernels.log_variance[2 * 2 + 1, 0], layer.posterior.log_variance[2, 1])


def test_gradients_of_the_local_reparameterisation():
    # d/d(mean, log variance) of E[output²] = mean² + variance, exactly, against the estimate.
    layer, _ = layer_of(bias=False)
    x = images(1, size=3)
    mean, log_variance = layer.posterior.mean, layer.posterior.log_variance
    exact = (functional.conv2d(x, mean).square() + functional.conv2d(x**2, log_variance.exp())).sum()
    expected = torch.autograd.grad(exact, (mean, log_variance))
    found = torch.autograd.grad(
        layer(x.repeat(20_000, 1, 1, 1)).square().sum() / 20_000, (mean, log_variance)
    )
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()


# Conversion of a model


def test_make_bayesian_replaces_every_convolution_of_any_model():
    model = small_net()
    model.extra = nn.ModuleDict({"inner": nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(3, 3))})
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert make_bayesian(model, PRIORS) is model
    found = [name for name, module in model.named_modules() if isinstance(module, BayesConv2d)]
    assert found == names == ["conv1", "conv2", "extra.inner.0"]
    assert not any(isinstance(module, nn.Conv2d) for module in model.modules())
    assert [layer.posterior.prior.kernel_size for layer in bayesian_layers(model)] == [5, 3, 3]


def test_a_convolution_by_itself_becomes_bayesian():
    convolution = nn.Conv2d(2, 2, 3)
    assert isinstance(make_bayesian(convolution, PRIORS[3]), BayesConv2d)


def test_make_bayesian_without_noise_is_the_model():
    model = small_net().eval()
    x = torch.randn(4, 1, 12, 12)
    before = model(x)
    make_bayesian(model, PRIORS)
    set_noise(model, Noise.NONE)
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("convolution", [nn.Conv2d(1, 1, 7), nn.Conv2d(1, 1, (3, 5)), nn.Conv2d(1, 1, 1)])
def test_convolutions_without_a_prior_stay_as_they_are(convolution):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ModuleDict({"here": convolution}))
    assert len(bayesian_layers(make_bayesian(model, PRIORS))) == 1
    assert model[1]["here"] is convolution


@pytest.mark.parametrize("form", list(FORMS))
def test_state_dict_round_trip(form):
    torch.manual_seed(3)
    vae = VAE(3, hidden=4, latent=2).requires_grad_(False)
    five = VAE(5, hidden=4, latent=2).requires_grad_(False)
    one, other = (make_bayesian(small_net(), {3: vae, 5: five}, form) for _ in range(2))
    for parameter in one.parameters():
        parameter.data.normal_()
    other.load_state_dict(one.state_dict())
    x = torch.randn(6, 1, 12, 12)
    assert torch.equal(predict(one, x, 3), predict(other, x, 3))
    names = set(one.state_dict())
    fields = {"truncated_alpha": ("mean", "a"), "point": ("value",)}.get(form, ("mean", "log_variance"))
    assert {f"conv{number}.posterior.{field}" for number in (1, 2) for field in fields} < names
    assert not any("prior." in name for name in names)


# KL and objectives


def test_kl_is_the_sum_over_all_weights():
    model = make_bayesian(small_net().double(), PRIORS)
    total = 0.0
    for layer in bayesian_layers(model):
        layer.posterior.log_variance.data.normal_()
        mean, log_variance = layer.posterior.moments()
        scale = torch.tensor(layer.posterior.prior.scale, dtype=torch.float64)
        total += kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, scale)).sum().item()
        prior, kernels = layer.posterior.prior, layer.posterior.kernels()
        by_kernel = sum(prior.kl(kernels[torch.tensor([m])]) for m in range(len(kernels)))
        assert layer.kl().item() == pytest.approx(by_kernel.item(), rel=1e-9)
    assert dwp.kl(model).item() == pytest.approx(total, rel=1e-9)


def test_there_is_no_kl_without_bayesian_layers():
    with pytest.raises(InputError, match="kl: a Sequential without Bayesian layers; convert it by make_baye"):
        dwp.kl(small_net())


def test_elbo_is_nll_plus_kl_per_example_whatever_the_batch():
    model = make_bayesian(small_net().eval(), PRIORS)
    set_noise(model, Noise.NONE)
    x, y = torch.randn(12, 1, 12, 12), torch.arange(12) % 5
    loss = objectives.elbo(model, examples=40)
    expected_kl = dwp.kl(model).item()
    for batch in (1, 5, 12):
        value, terms = loss(x[:batch], y[:batch])
        nll = functional.cross_entropy(model(x[:batch]), y[:batch]).item()
        assert terms["train_nll"].item() == pytest.approx(nll, rel=1e-5)
        assert terms["kl"].item() == pytest.approx(expected_kl, rel=1e-5)
        assert value.item() == pytest.approx(nll + expected_kl / 40, rel=1e-5)


def test_elbo_passes_the_bound_on():
    class Spy(StandardNormal):
        def kl(self, q, estimator=None):
            return torch.tensor(float(estimator.subset))

    model = make_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten()), {3: Spy(3)})
    _, terms = objectives.elbo(model, 10, KLEstimator(7))(torch.randn(2, 1, 5, 5), torch.tensor([0, 1]))
    assert terms["kl"].item() == 14


def test_cross_entropy_and_its_penalty():
    model = small_net().eval()
    x, y = torch.randn(6, 1, 12, 12), torch.arange(6) % 5
    nll = functional.cross_entropy(model(x), y).item()
    squares = sum(conv.weight.square().sum().item() for conv in (model.conv1, model.conv2))
    for l2 in (0.0, 0.1):
        value, terms = objectives.cross_entropy(model, l2)(x, y)
        assert terms.keys() == {"train_nll"}
        assert terms["train_nll"].item() == pytest.approx(nll, rel=1e-6)
        assert value.item() == pytest.approx(nll + l2 * squares, rel=1e-6)


def test_variational_inference_finds_the_posterior_of_a_linear_gaussian_model():
    # A 1×1 kernel w, prior N(0, 1), n observations y = w + N(0, s²): the posterior is known.
    torch.manual_seed(0)
    y = 0.7 + 0.5 * torch.randn(20, 1, 1, 1)
    layer = BayesConv2d(nn.Conv2d(1, 1, 1, bias=False), StandardNormal(1))
    layer.posterior.log_variance.data.fill_(-2)

    def loss(batch):
        nll = -Normal(layer(torch.ones(1000, 1, 1, 1)), 0.5).log_prob(batch.view(1, -1)).sum() / 1000 / 20
        return nll + layer.kl() / 20, {}

    fit(layer, loss, (y,), Schedule(lr=0.05, steps=300, precision="float32"), seed=0)
    precision = 1 + 20 / 0.25
    mean, log_variance = (moment.item() for moment in layer.posterior.moments())
    assert mean == pytest.approx(y.sum().item() / 0.25 / precision, abs=0.02)
    assert math.exp(log_variance) == pytest.approx(1 / precision, rel=0.1)
