"""Bayesian layers, the ELBO, predictive sampling: against closed forms and the layers that they replace."""

import contextlib
import copy
import math

import pytest
import scipy.stats
import torch
from prior_helpers import vae
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

import dwp
from dwp import Noise, bayes, make_bayesian, objectives, posteriors, predict, set_noise
from dwp.bayes import BayesConv2d, bayesian_layers
from dwp.distributions import GaussianPosterior
from dwp.errors import InputError
from dwp.networks import build
from dwp.priors import Bound
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE
from dwp.training import Schedule, fit

ERRORS = 4  # standard errors by which a Monte Carlo estimate may miss
PRIORS = {3: StandardNormal(3), 5: StandardNormal(5, scale=0.5)}

CONVOLUTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "stride": {"stride": 2, "padding": 1},
    "unequal": {"stride": (2, 1), "padding": (0, 2)},
    "same": {"padding": "same", "dilation": 2},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "same and circular": {"padding": "same", "padding_mode": "circular"},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate", "stride": 2},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "dilation": 2},
}


def layer_of(noisy=True, form="additive", prior=PRIORS[3], **arguments):
    """A Bayesian layer with 4 inputs, in double precision, and the convolution that it replaces."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 8 if arguments.get("groups") == 4 else 6, 3, **arguments).double()
    layer = BayesConv2d(convolution, prior, form)
    if noisy and form == "additive":
        layer.posterior.log_variance.data.normal_().sub_(3)
    return layer, convolution


def images(n=2, channels=4, size=7):
    return torch.randn(
        n, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def small_net():
    torch.manual_seed(0)
    network = {"layers": [{"conv": 3, "kernel": 5, "pool": 2}, {"conv": 4, "kernel": 3}], "batch_norm": True}
    return build(network, (1, 12, 12), 5)


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
    with torch.no_grad():
        mean = convolution(x)
        squared = copy.deepcopy(convolution)
        squared.weight.copy_(layer.posterior.log_variance.exp())
        squared.bias = None  # a bias has no variance
        variance = squared(x.square())
        for noise in (Noise.OUTPUTS, Noise.WEIGHTS):
            layer.noise = noise
            draws = torch.stack([layer(x) for _ in range(1500)])
            z = (draws.mean(0) - mean) / (variance / 1500).sqrt()
            # Hundreds of outputs are looked at: five standard errors for the worst of them.
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


# Posteriors


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


@pytest.mark.parametrize("form", list(posteriors.FORMS))
@pytest.mark.parametrize(
    "prior",
    [StandardNormal(3), LogUniform(3), LogUniform(3, approximation="molchanov"), VAE(3, hidden=4, latent=2)],
)
def test_weights_of_zero_give_finite_values_and_gradients(form, prior):
    try:
        posteriors.find(form).check(type(prior))
    except InputError:
        pytest.skip("this form does not go with this prior")
    convolution = nn.Conv2d(2, 3, 3)
    convolution.weight.data.zero_()
    layer = BayesConv2d(convolution, prior, form)
    value = layer(torch.ones(2, 2, 6, 6)).square().mean() + layer.kl()
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in layer.posterior.parameters())


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


@pytest.mark.parametrize(
    ("convolution", "message"),
    [
        (
            nn.Conv2d(1, 1, 7),
            "layer 1.here: there is no prior over 7×7 kernels; there are priors for 3×3, 5×5",
        ),
        (nn.Conv2d(1, 1, (3, 5)), "layer 1.here: there is no prior over 3×5 kernels"),
    ],
)
def test_convolutions_without_a_prior_are_named(convolution, message):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ModuleDict({"here": convolution}))
    with pytest.raises(InputError, match=message):
        make_bayesian(model, PRIORS)
    with pytest.raises(InputError, match="there are priors for no size"):
        make_bayesian(model, {})


@pytest.mark.parametrize("form", list(posteriors.FORMS))
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
        def kl(self, q, bound=None):
            return torch.tensor(float(bound.subset))

    model = make_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten()), {3: Spy(3)})
    _, terms = objectives.elbo(model, 10, Bound(7))(torch.randn(2, 1, 5, 5), torch.tensor([0, 1]))
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


# Precision

CASTS = [
    lambda net: make_bayesian(net, MIXED).half(),
    lambda net: make_bayesian(net.half(), MIXED),
    lambda net: make_bayesian(net, MIXED).bfloat16(),
    lambda net: make_bayesian(net.bfloat16(), MIXED),
    lambda net: make_bayesian(net, MIXED).double(),
    lambda net: make_bayesian(net.double(), MIXED),
]
MIXED = {3: vae(3), 5: StandardNormal(5)}


@pytest.mark.parametrize("cast", CASTS)
def test_models_of_every_precision(cast):
    model = cast(small_net())
    dtype = model.classifier.weight.dtype
    x = torch.randn(4, 1, 12, 12).to(dtype)
    value, terms = objectives.elbo(model, 10)(x, torch.arange(4))
    value.backward()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert terms["kl"].dtype == value.dtype == wide
    assert terms["kl"].shape == ()
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
    members = predict(model, x, 2)
    assert members.dtype == torch.float64
    torch.testing.assert_close(members.sum(2), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("form", list(posteriors.FORMS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("prior_dtype", [torch.float16, torch.float32, torch.float64])
def test_costs_are_computed_in_the_dtype_of_the_prior(form, dtype, prior_dtype):
    given = vae(3).to(prior_dtype)
    model = make_bayesian(nn.Sequential(nn.Conv2d(2, 3, 3)).to(dtype), given, form)
    found = dwp.kl(model)
    assert found.dtype == torch.promote_types(prior_dtype, torch.float32)
    found.backward()
    # The same parameters in that dtype throughout, without a cast on the way.
    exact = copy.deepcopy(model).to(found.dtype)
    torch.manual_seed(0)
    found = dwp.kl(model)
    torch.manual_seed(0)
    torch.testing.assert_close(found, dwp.kl(exact), rtol=1e-6, atol=0)
    assert given.encoder[0].weight.dtype == prior_dtype


@pytest.mark.parametrize("form", ["additive", "truncated_alpha"])
@pytest.mark.parametrize("after", [False, True])
def test_a_double_model_with_an_analytic_prior_is_exact(form, after):
    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    model = (
        make_bayesian(net, PRIORS[3], form).double()
        if after
        else make_bayesian(net.double(), PRIORS[3], form)
    )
    mean, log_variance = model[0].posterior.moments()
    q = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros((), dtype=torch.float64), 1.0)).sum()
    torch.testing.assert_close(dwp.kl(model), expected, rtol=1e-13, atol=0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    point = make_bayesian(net, PRIORS[3], "point")
    expected = -Normal(0.0, torch.ones((), dtype=torch.float64)).log_prob(point[0].posterior.value).sum()
    torch.testing.assert_close(dwp.kl(point), expected, rtol=1e-13, atol=0)


# Prediction


@pytest.fixture(scope="module")
def bayesian():
    model = make_bayesian(small_net(), PRIORS)
    for layer in bayesian_layers(model):
        layer.posterior.log_variance.data.fill_(-2)
    return model.eval()


def test_a_member_is_the_same_whatever_the_chunks_images_and_company(bayesian):
    x = torch.randn(17, 1, 12, 12)
    full = predict(bayesian, x, 4)
    assert full.shape == (4, 17, 5)
    torch.testing.assert_close(full.sum(2), torch.ones(4, 17).double())
    for chunk in (1, 5, 17):
        torch.testing.assert_close(predict(bayesian, x, 4, chunk=chunk), full, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(predict(bayesian, x[:3], 4), full[:, :3], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(predict(bayesian, x, 2), full[:2], rtol=1e-4, atol=1e-6)
    assert (full[0] - full[1]).abs().max() > 0.01
    assert (predict(bayesian, x, 1, generator_seed=1) - full[:1]).abs().max() > 0.01


def test_prediction_repeats_and_leaves_the_global_generator_alone(bayesian):
    x, state = torch.randn(3, 1, 12, 12), torch.get_rng_state()
    first = predict(bayesian, x, 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, predict(bayesian, x, 2))


def test_no_samples_predict_with_the_mean(bayesian):
    x = torch.randn(3, 1, 12, 12)
    set_noise(bayesian, Noise.NONE)
    expected = bayesian(x).double().softmax(1)[None]
    set_noise(bayesian, Noise.OUTPUTS)
    torch.testing.assert_close(predict(bayesian, x, samples=0), expected)
    plain = small_net().eval()
    torch.testing.assert_close(predict(plain, x, samples=0), plain(x).double().softmax(1)[None])


@pytest.mark.parametrize("training", [True, False])
def test_prediction_restores_the_model(bayesian, training):
    model = copy.deepcopy(bayesian).train(training)
    first, second = bayesian_layers(model)
    first.noise, second.noise = Noise.NONE, Noise.OUTPUTS
    before = copy.deepcopy(model.state_dict())
    predict(model, torch.randn(3, 1, 12, 12), 2)
    assert (first.noise, second.noise) == (Noise.NONE, Noise.OUTPUTS)
    assert {module.training for module in model.children()} | {model.training} == {training}
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("channels", [1, 2])
def test_prediction_restores_the_mode_of_every_module(bayesian, channels):
    model = copy.deepcopy(bayesian).train()
    model.norm1.eval()
    model.conv2.posterior.eval()
    before = {name: module.training for name, module in model.named_modules()}
    with contextlib.nullcontext() if channels == 1 else pytest.raises(RuntimeError):
        predict(model, torch.randn(3, channels, 12, 12), 2)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_prediction_goes_through_a_module_s_own_switch():
    class Merged(nn.Flatten):
        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(nn.Linear(3, 3), Merged()).train()
    predict(model, torch.randn(2, 3), 0)
    assert not model[1].merged


def test_prediction_restores_the_model_when_it_fails(bayesian):
    model = copy.deepcopy(bayesian).train()
    with pytest.raises(RuntimeError):
        predict(model, torch.randn(3, 2, 12, 12), 2)
    assert model.training
    assert {layer.noise for layer in bayesian_layers(model)} == {Noise.OUTPUTS}


def test_members_are_samples_of_the_posterior():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    model[0].weight.data.copy_(torch.tensor([0.5, -0.5]).view(2, 1, 1, 1))
    make_bayesian(model, {1: StandardNormal(1)})
    model[0].posterior.log_variance.data.fill_(math.log(0.3))
    members = predict(model, torch.ones(1, 1, 1, 1), 2000)
    logit = (members[:, 0, 0] / members[:, 0, 1]).log().numpy()
    assert scipy.stats.kstest(logit, "norm", (1, math.sqrt(0.6))).pvalue > 1e-3


def test_set_noise_reaches_every_layer(bayesian):
    for noise in (Noise.NONE, Noise.WEIGHTS, Noise.OUTPUTS):
        set_noise(bayesian, noise)
        assert {layer.noise for layer in bayesian_layers(bayesian)} == {noise}
    assert bayes.bayesian_layers(small_net()) == []
