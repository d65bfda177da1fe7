"""The VAE over images: its bound, its mirrored decoder, its initialisation."""

import contextlib
import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from network_samples import described
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from dwp.data import Dataset
from dwp.errors import InputError
from dwp.experiments import image_vae
from dwp.experiments.base import Init
from dwp.experiments.task import run
from dwp.initialisation import build_initialised, init_
from dwp.nn.convnet import build
from dwp.nn.image_vae import ImageVAE
from dwp.priors.standard_normal import StandardNormal
from dwp.training.schedule import Schedule


def network(*layers, batch_norm=False):
    return described(list(layers), batch_norm=batch_norm)


PAPER = network({"conv": 4, "kernel": 7, "pool": 2}, {"conv": 6, "kernel": 5, "pool": 2})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# The bound


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 19, 19)])
def test_the_bound_is_that_of_an_independent_computation(image):
    torch.manual_seed(0)
    model = ImageVAE(PAPER, image, latent=5).double()
    images, noise = torch.rand(6, *image, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    reconstruction, code_kl = model.bound(images, noise)
    mean, raw = model.encoder(images).chunk(2, 1)
    q = Normal(mean, (torch.log1p(raw.exp()) + 1e-6).sqrt())
    z = q.mean + q.stddev * noise
    pixels = Bernoulli(logits=model.decoder(z), validate_args=False)
    torch.testing.assert_close(reconstruction, pixels.log_prob(images).sum((1, 2, 3)), rtol=1e-10, atol=0)
    expected = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1)
    torch.testing.assert_close(code_kl, expected, rtol=1e-9, atol=1e-9)
    assert reconstruction.shape == code_kl.shape == (6,)


def test_an_untold_decoder_pays_one_bit_for_each_black_or_white_pixel():
    model = ImageVAE(PAPER, (1, 28, 28), latent=2)
    for parameter in model.decoder.parameters():
        nn.init.zeros_(parameter)
    reconstruction, _ = model.bound(torch.rand(3, 1, 28, 28).round(), torch.randn(3, 2))
    assert reconstruction.tolist() == pytest.approx([-784 * math.log(2)] * 3)


def test_evaluation_is_the_mean_bound_whatever_the_chunk_and_repeats():
    torch.manual_seed(0)
    model = ImageVAE(replace(PAPER, batch_norm=True), (1, 28, 28), latent=3).train()
    images = torch.rand(7, 1, 28, 28)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = model.evaluate(images)
    assert model.evaluate(images) == found
    assert torch.equal(torch.get_rng_state(), state)
    assert model.evaluate(images, chunk=2) == pytest.approx(found, rel=1e-5)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        reconstruction, code_kl = model.eval().bound(images, torch.randn(7, 3, generator=seeded()))
    assert found["reconstruction"] == pytest.approx(reconstruction.mean().item(), rel=1e-5)
    assert found["code_kl"] == pytest.approx(code_kl.mean().item(), rel=1e-5)
    assert found["lower_bound"] == found["reconstruction"] - found["code_kl"]


@pytest.mark.parametrize("value", [-60.0, 60.0])
def test_extreme_variances_give_no_nan(value):
    model = ImageVAE(PAPER, (1, 28, 28), latent=2)
    nn.init.constant_(model.encoder.classifier.bias, value)
    reconstruction, code_kl = model.bound(torch.rand(3, 1, 28, 28), torch.randn(3, 2))
    (code_kl - reconstruction).sum().backward()
    assert torch.isfinite(reconstruction).all()
    assert torch.isfinite(code_kl).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


# The mirror image

NETWORKS = {
    "the paper's": (PAPER, (1, 28, 28)),
    "no pooling": (network({"conv": 3, "kernel": 7}, {"conv": 2, "kernel": 5}), (1, 28, 28)),
    "16×16 kernels": (network({"conv": 3, "kernel": 16, "pool": 2}), (1, 28, 28)),
    "odd sizes": (
        network({"conv": 3, "kernel": 3, "pool": 2}, {"conv": 2, "kernel": 2, "pool": 3}),
        (1, 17, 17),
    ),
    "linear layers": (
        network({"conv": 3, "kernel": 5, "pool": 2}, {"linear": 9}, {"linear": 7}),
        (3, 12, 12),
    ),
    "linear layers only": (network({"linear": 9}), (1, 8, 8)),
    "CIFAR's": (
        network(
            {"conv": 4, "kernel": 7, "pool": 2},
            {"conv": 5, "kernel": 5},
            {"conv": 6, "kernel": 5},
            {"linear": 11},
            batch_norm=True,
        ),
        (3, 32, 32),
    ),
}


@pytest.mark.parametrize(("description", "image"), NETWORKS.values(), ids=NETWORKS)
def test_the_decoder_mirrors_the_encoder(description, image):
    model = ImageVAE(description, image, latent=4)
    images = torch.rand(3, *image)
    shapes = [tuple(images.shape)]
    values = images
    for module in model.encoder[:-1]:
        values = module(values)
        shapes.append(tuple(values.shape))
    # The decoder's activations have the shapes of the encoder's, in reverse order.
    values = torch.randn(3, 4)
    for module, shape in zip(model.decoder, reversed(shapes), strict=True):
        values = module(values)
        assert tuple(values.shape) == shape, module
    assert model.decode(torch.randn(2, 4)).shape == (2, *image)
    # Whether a pixel can be of either colour: no activation after the last layer.
    assert isinstance(model.decoder[-1], nn.ConvTranspose2d | nn.Unflatten)
    model.bound(images, torch.randn(3, 4))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())


def test_width_scales_both_sides():
    model = ImageVAE(PAPER, (1, 28, 28), latent=4, width=0.5)
    assert [m.out_channels for m in model.encoder if isinstance(m, nn.Conv2d)] == [2, 3]
    turned = [m for m in model.decoder if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in turned] == [
        (3, 2, (5, 5)),
        (2, 1, (7, 7)),
    ]


def test_a_transposed_convolution_is_the_adjoint_of_the_convolution_with_the_same_kernels():
    model = ImageVAE(PAPER, (1, 28, 28), latent=4).double()
    there, back = model.encoder.conv1, model.decoder.conv1
    with torch.no_grad():
        back.weight.copy_(there.weight)
        there.bias.zero_()
        back.bias.zero_()
    x, y = torch.randn(1, 1, 28, 28, dtype=torch.float64), torch.randn(1, 4, 22, 22, dtype=torch.float64)
    assert (there(x) * y).sum().item() == pytest.approx((x * back(y)).sum().item())


@pytest.mark.parametrize("size", [28, 9])
def test_evaluation_restores_the_mode_of_every_module(size):
    model = ImageVAE(replace(PAPER, batch_norm=True), (1, 28, 28), latent=3).train()
    model.encoder.norm1.eval()
    before = {name: module.training for name, module in model.named_modules()}
    with contextlib.nullcontext() if size == 28 else pytest.raises(RuntimeError):
        model.evaluate(torch.rand(7, 1, size, size))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_layers_without_a_mirror_image_are_refused(monkeypatch):
    def with_dropout(*arguments, **options):
        layers = build(*arguments, **options)
        return nn.Sequential(OrderedDict(conv1=layers.conv1, drop=nn.Dropout(), classifier=layers.classifier))

    monkeypatch.setattr("dwp.nn.image_vae.build", with_dropout)
    with pytest.raises(InputError, match="a layer Dropout has no mirror image"):
        ImageVAE(PAPER, (1, 28, 28), latent=2)


# Initialisation and training


def make(network, image_shape, classes, width):
    return ImageVAE(network, image_shape, 3, width)


def test_both_sides_are_filled_from_the_prior_of_their_size():
    model = ImageVAE(PAPER, (1, 28, 28), latent=3)
    prior = StandardNormal(5, scale=3.0)
    assert init_(model, [prior], gain=None, generator=seeded()).changed == ["encoder.conv2", "decoder.conv2"]
    drawn = torch.cat([prior.sample(24, generator) for generator in [seeded()] for _ in range(2)])
    both = torch.cat(
        [model.encoder.conv2.weight.reshape(24, 1, 5, 5), model.decoder.conv2.weight.reshape(24, 1, 5, 5)]
    )
    assert torch.equal(both, drawn)
    priors = {"conv1": StandardNormal(7, scale=0.01), "conv2": StandardNormal(5, scale=3.0)}
    started = build_initialised(PAPER, (1, 28, 28), 10, 0, origins=priors, build=make)
    for layer, scale in (
        (started.encoder.conv1, 0.01),
        (started.encoder.conv2, 3.0),
        (started.decoder.conv2, 3.0),
        (started.decoder.conv1, 0.01),
    ):
        assert layer.weight.std().item() == pytest.approx(scale, rel=0.2)
        assert bool((layer.bias == 0).all())


def test_methods_share_what_is_not_a_convolution():
    one = build_initialised(PAPER, (1, 28, 28), 10, 4, build=make).state_dict()
    priors = {"conv1": StandardNormal(7), "conv2": StandardNormal(5)}
    two = build_initialised(PAPER, (1, 28, 28), 10, 4, origins=priors, build=make).state_dict()
    differ = {name for name in one if not torch.equal(one[name], two[name])}
    assert differ == {
        "encoder.conv1.weight",
        "encoder.conv2.weight",
        "decoder.conv2.weight",
        "decoder.conv1.weight",
    }


@pytest.fixture(scope="module")
def bars():
    """Images of one bright row or column each, determined by its position."""
    images = torch.zeros(48, 1, 12, 12, dtype=torch.uint8)
    for number in range(48):
        place = number // 2 % 12
        images[number, 0, place, :] = 255 * (number % 2)
        images[number, 0, :, place] += 255 * (1 - number % 2)
    return Dataset("bars", images[:36], torch.arange(36) % 2, images[36:], torch.arange(12) % 2)


def xavier(bars, steps, examples=None):
    """Run one seed of the experiment from Xavier's initialisation; return its rows."""
    settings = image_vae.Settings(
        seeds=2,
        shard=2,
        methods={"xavier": image_vae.Method(init=Init(origin="xavier"))},
        network=network({"conv": 4, "kernel": 5, "pool": 2}, {"linear": 16}),
        schedule=Schedule(steps=steps, batch=12, lr=0.03, decay="constant", precision="float32"),
        every=steps // 2,
        width=(1.0,),
        examples=examples,
        latent=2,
    )
    method = settings.methods["xavier"]
    cpu = torch.device("cpu")
    return run(
        "image_vae", "xavier", 0, settings=settings, method=method, dataset=bars, priors={}, device=cpu
    )


def test_training_raises_the_bound_above_that_of_independent_pixels(bars):
    rows = xavier(bars, 200)
    bounds = {row["step"]: row["value"] for row in rows if row["metric"] == "lower_bound"}
    assert bounds[0] < bounds[100]
    # The best possible bound without a code.
    mean = bars.images("train").mean(0, keepdim=True)
    independent = Bernoulli(mean, validate_args=False).log_prob(bars.images("test")).sum((1, 2, 3)).mean()
    assert bounds[200] > independent.item()


def test_only_the_wanted_examples_are_learned_from(bars):
    few, all_of_them = (xavier(bars, 4, n) for n in (8, None))
    assert [row["metric"] for row in few] == [row["metric"] for row in all_of_them]
    assert few != all_of_them
