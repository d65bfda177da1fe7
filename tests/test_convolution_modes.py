"""Convolutions of small maps under PyTorch's options, transforms, tracing, compilers and precisions."""

import copy
import pickle

import pytest
import torch
from network_samples import described
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from dwp.bayes.layers import BayesConv2d, Noise, kl, make_bayesian, predict, set_noise
from dwp.nn import bilinear_algorithms, product_conv
from dwp.nn.conv import Conv2d, ConvTranspose2d, MaxPool2d, conv2d, implementation
from dwp.nn.convnet import build
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE


@pytest.fixture(autouse=True, params=["products", "products are faster", "PyTorch is faster"])
def by_products(request, monkeypatch):
    """Compute convolutions in each way, without constants that were created in another mode."""
    bilinear_algorithms.cheapest.cache_clear()
    product_conv._met.cache_clear()
    faster = request.param != "PyTorch is faster"
    monkeypatch.setattr(product_conv, "are_faster", lambda *_, **__: faster)
    with implementation("products" if request.param == "products" else "fastest"):
        yield


def twins(ours, theirs, *arguments, **options):
    """Return one of our layers and PyTorch's with the same weights, in double precision."""
    torch.manual_seed(0)
    mine, its = ours(*arguments, **options).double(), theirs(*arguments, **options).double()
    its.load_state_dict(mine.state_dict())
    return mine, its


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "padding_mode": "circular"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "replicate"},
        {"padding": "valid"},
    ],
)
def test_every_option_of_a_convolution_counts(options):
    mine, its = twins(Conv2d, nn.Conv2d, 8, 8, 3, **options)
    torch.testing.assert_close(mine(images(4, 8, 6, 6)), its(images(4, 8, 6, 6)))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2, "output_padding": 1},
        {"dilation": 2},
        {"groups": 2},
        {"stride": 2},
    ],
)
def test_every_option_of_a_transposed_convolution_counts(options):
    mine, its = twins(ConvTranspose2d, nn.ConvTranspose2d, 8, 8, 3, **options)
    torch.testing.assert_close(mine(images(4, 8, 6, 6)), its(images(4, 8, 6, 6)))


def test_a_transposed_convolution_may_be_told_its_size():
    mine, its = twins(ConvTranspose2d, nn.ConvTranspose2d, 8, 8, 3, stride=2)
    torch.testing.assert_close(mine(images(4, 8, 6, 6), [14, 14]), its(images(4, 8, 6, 6), [14, 14]))


def test_a_single_image_needs_no_batch():
    for ours, theirs in ((Conv2d, nn.Conv2d), (ConvTranspose2d, nn.ConvTranspose2d)):
        mine, its = twins(ours, theirs, 8, 8, 3)
        torch.testing.assert_close(mine(images(8, 6, 6)), its(images(8, 6, 6)))
    torch.testing.assert_close(MaxPool2d(2)(images(8, 6, 6)), functional.max_pool2d(images(8, 6, 6), 2))


@pytest.mark.parametrize(
    ("inputs", "outputs", "maps", "dtype"),
    [(3, 1, 1, torch.float32), (2, 1, 4, torch.float64), (1, 1, 1, torch.float32)],
)
def test_weights_of_one_output_have_gradients(inputs, outputs, maps, dtype):
    layer = Conv2d(inputs, outputs, 3).to(dtype)
    layer(torch.randn(maps, inputs, 28, 28, dtype=dtype)).sum().backward()
    assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize(("size", "kernel", "padding"), [(1, 3, 1), (2, 5, 2), (3, 7, 3)])
@pytest.mark.parametrize("layer", [nn.Conv2d, Conv2d])
def test_kernels_may_be_larger_than_the_map(layer, size, kernel, padding):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(size), layer(64, 64, kernel, padding=padding), nn.Flatten(), nn.LazyLinear(3)
    )
    x = torch.randn(8, 64, 9, 9)
    expected = functional.conv2d(model[0](x), model[1].weight, model[1].bias, padding=padding)
    torch.testing.assert_close(model[1](model[0](x)), expected, rtol=1e-4, atol=1e-5)
    model(x)
    make_bayesian(model, {kernel: StandardNormal(kernel)})
    model(x).sum().backward()
    assert predict(model, x, samples=2).isfinite().all()


MODELS = {
    "network": lambda: build(
        described([{"conv": 8, "kernel": 3, "pool": 2}, {"conv": 8, "kernel": 3}]),
        (1, 12, 12),
        3,
    ),
    "decoder": lambda: nn.Sequential(Conv2d(1, 8, 1), ConvTranspose2d(8, 8, 3), ConvTranspose2d(8, 2, 3)),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_network_compiles_as_one_graph(model):
    torch.manual_seed(0)
    network, x = MODELS[model](), torch.randn(6, 1, 12, 12)
    torch.compiler.reset()  # what other tests have compiled counts towards the limit
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()


@pytest.mark.parametrize("model", MODELS)
def test_a_network_is_traced_and_exported(model):
    torch.manual_seed(0)
    network, x = MODELS[model](), torch.randn(6, 1, 12, 12)
    expected = network(x)
    torch.testing.assert_close(torch.jit.trace(network, x)(x), expected, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_of_single_images_by_transforms(model):
    torch.manual_seed(0)
    network, x = MODELS[model]().double(), images(6, 1, 12, 12)

    def loss(parameters, image):
        return torch.func.functional_call(network, parameters, image[None]).square().mean()

    parameters = {name: tensor.detach() for name, tensor in network.named_parameters()}
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index in range(len(x)):
        network.zero_grad()
        network(x[index : index + 1]).square().mean().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[name][index], parameter.grad)


@pytest.mark.parametrize("prior", [StandardNormal(3), VAE(3, hidden=4, latent=2).requires_grad_(False)])
def test_a_bayesian_network_is_compiled_traced_exported_and_transformed(prior):
    torch.manual_seed(0)
    model, x = make_bayesian(MODELS["network"](), {3: prior}), torch.randn(6, 1, 12, 12)

    def loss(x):
        return model(x).square().mean() + kl(model)

    def loss_of(parameters, image):
        return torch.func.functional_call(model, parameters, image[None]).square().mean()

    torch.compiler.reset()  # what other tests have compiled counts towards the limit
    torch.compile(loss, fullgraph=True, backend="aot_eager")(x).backward()
    assert torch.jit.trace(model, x, check_trace=False)(x).shape == (6, 3)
    assert torch.export.export(model, (x,)).module()(x).shape == (6, 3)
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss_of), (None, 0), randomness="different")(parameters, x)
    assert all(gradient.isfinite().all() for gradient in each.values())


@pytest.mark.parametrize("mode", [torch.inference_mode, FakeTensorMode, lambda: torch.device("meta")])
def test_a_first_use_in_any_mode_leaves_training_possible(mode):
    with mode():
        for make in MODELS.values():
            make()(torch.randn(6, 1, 12, 12))
    for make in MODELS.values():
        make()(torch.randn(6, 1, 12, 12)).sum().backward()


@pytest.mark.parametrize(
    ("inputs", "size", "kernel", "padding"),
    [(32, 10, 5, 0), (1, 5, 3, 1), (8, 6, 1, 0), (8, 5, 5, 0)],
    ids=["form", "one channel", "1×1", "as large as the map"],
)
@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16])
def test_under_autocast_products_are_float32(inputs, size, kernel, padding, first):
    torch.manual_seed(0)
    x = torch.randn(16, inputs, size, size).to(first)
    weight, bias = torch.randn(32, inputs, kernel, kernel), torch.randn(32)
    with implementation("products"):
        expected = conv2d(x.float(), weight, bias, padding=(padding,) * 2)
        with torch.autocast("cpu", torch.bfloat16):
            found = conv2d(x, weight, bias, padding=(padding,) * 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_network_can_be_copied_and_loaded():
    torch.manual_seed(0)
    network = MODELS["network"]()
    x = torch.randn(6, 1, 12, 12)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x))
    other = MODELS["network"]()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("layer", [nn.Conv2d, Conv2d])
def test_one_bright_pixel_leaves_the_noise_of_the_others(layer):
    torch.manual_seed(0)
    bayesian = BayesConv2d(layer(32, 32, 5), StandardNormal(5))
    x = torch.full((64, 32, 10, 10), 0.01)
    x[:, :, 0, 0] = 100
    with torch.no_grad():
        mean = functional.conv2d(x, bayesian.posterior.mean, bayesian.bias)
        variance = functional.conv2d(x.square(), bayesian.posterior.log_variance.exp())
        noise = torch.stack([bayesian(x) - mean for _ in range(4)]) / variance.sqrt()
    # 128 draws of 36 pixels and more channels: the deviation of each pixel's noise is 1 to 1.6 %.
    torch.testing.assert_close(noise[..., 1:, 1:].std((0, 1, 2)), torch.ones(5, 5), rtol=0.05, atol=0)
    bayesian(x).square().sum().backward()
    assert bayesian.posterior.log_variance.grad.isfinite().all()


def test_noise_is_as_small_as_the_inputs():
    torch.manual_seed(0)
    bayesian = BayesConv2d(nn.Conv2d(4, 4, 3, bias=False), StandardNormal(3))
    x = torch.full((2000, 4, 3, 3), 1e-7)
    expected = functional.conv2d(x[:1].double().square(), bayesian.posterior.log_variance.double().exp())
    found = bayesian(x).detach().double().std(0, keepdim=True)
    torch.testing.assert_close(found, expected.sqrt(), rtol=0.1, atol=0)


def test_no_input_means_no_noise_and_finite_gradients():
    bayesian = BayesConv2d(nn.Conv2d(4, 4, 3, bias=False), StandardNormal(3))
    x = torch.zeros(2, 4, 5, 5, requires_grad=True)
    y = bayesian(x)
    assert y.abs().max() < 1e-15
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert bayesian.posterior.log_variance.grad.isfinite().all()


def test_networks_of_others_keep_pytorchs_convolutions():
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 5)
    model = make_bayesian(nn.Sequential(plain), {5: StandardNormal(5)})
    x = torch.randn(8, 16, 10, 10)
    x[0, 0, 0, 0] = float("inf")
    set_noise(model, Noise.NONE)
    assert torch.equal(model(x), functional.conv2d(x, plain.weight, plain.bias))
