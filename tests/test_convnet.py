"""Networks from their descriptions, and functions on the convolutions of any model."""

import pytest
import torch
from network_samples import described
from torch import nn
from torch.nn import functional

from dwp.bayes.objectives import cross_entropy
from dwp.errors import InputError
from dwp.nn.convnet import build, convolutions, kernel_layers, squared_norm
from dwp.nn.image_vae import ImageVAE
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

MNIST = described([{"conv": 32, "kernel": 7, "pool": 2}, {"conv": 128, "kernel": 5, "pool": 2}])
CIFAR = described(
    [
        {"conv": 12, "kernel": 7, "pool": 2},
        {"conv": 25, "kernel": 5},
        {"conv": 26, "kernel": 5, "pool": 2},
        {"linear": 512},
    ],
    batch_norm=True,
)


@pytest.mark.parametrize(
    ("network", "image", "classes", "linears"),
    [
        (MNIST, (1, 28, 28), 10, [(128 * 9, 10)]),
        (CIFAR, (3, 32, 32), 7, [(26 * 4, 512), (512, 7)]),
        (described([{"linear": 5}, {"linear": 4}]), (3, 8, 8), 2, [(192, 5), (5, 4), (4, 2)]),
    ],
)
def test_shapes(network, image, classes, linears):
    model = build(network, image, classes)
    assert model(torch.rand(3, *image)).shape == (3, classes)
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [(module.in_features, module.out_features) for module in found] == linears
    convs = [(c.in_channels, c.out_channels, *c.kernel_size) for _, c in convolutions(model)]
    layers = [layer for _, layer in network.convolutions()]
    assert [(c[1], c[2], c[3]) for c in convs] == [(x.conv, x.kernel, x.kernel) for x in layers]
    assert [c[0] for c in convs] == [image[0], *[x.conv for x in layers]][: len(convs)]
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert norms == (len(layers) if network.batch_norm else 0)


@pytest.mark.parametrize(
    ("width", "channels"),
    [(1, [32, 128]), (1 / 4, [8, 32]), (1 / 16, [2, 8]), (0.001, [1, 1]), (1.5, [48, 192])],
)
def test_width_scales_every_convolution(width, channels):
    model = build(MNIST, (1, 28, 28), 10, width)
    assert [convolution.out_channels for _, convolution in convolutions(model)] == channels
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("network", "image"), [(MNIST, (1, 28, 28)), (CIFAR, (3, 32, 32))])
def test_pooling_before_the_activation_changes_nothing(network, image):
    torch.manual_seed(0)
    model = build(network, image, 10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.weight.data.normal_()
    modules = list(model)
    pools = [index for index, module in enumerate(modules) if isinstance(module, nn.MaxPool2d)]
    for index in pools:
        pool, activation = modules[index : index + 2]
        assert isinstance(activation, nn.LeakyReLU)
        modules[index : index + 2] = activation, pool
    swapped = nn.Sequential(*modules)
    images = torch.randn(4, *image)
    assert len(pools) == 2
    assert torch.equal(model(images), swapped(images))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": 2, "kernel": 9}], r"layers\[0\]: kernel 9 does not fit the 8×8 image"),
        (
            [{"conv": 2, "kernel": 5, "pool": 2}, {"conv": 2, "kernel": 3}],
            r"layers\[1\]: kernel 3 does not fit the 2×2",
        ),
        ([{"conv": 2, "kernel": 7, "pool": 3}], r"layers\[0\]: pool 3 leaves nothing"),
        (
            [{"linear": 4}, {"conv": 2, "kernel": 3}],
            r"layers\[1\]: a convolution cannot follow a linear layer",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, message):
    with pytest.raises(InputError, match=message):
        build(described(layers), (1, 8, 8), 10)


def test_a_kernel_as_large_as_the_image_fits():
    model = build(described([{"conv": 2, "kernel": 8}]), (1, 8, 8), 10)
    assert model(torch.rand(1, 1, 8, 8)).shape == (1, 10)


def test_kernel_sizes_are_unique_and_in_order():
    assert MNIST.kernel_sizes() == [7, 5]
    assert CIFAR.kernel_sizes() == [7, 5]
    layers = [{"conv": 1, "kernel": 3}, {"conv": 1, "kernel": 5}, {"linear": 3}]
    assert described(layers).kernel_sizes() == [3, 5]
    assert CIFAR.layer_sizes() == {"conv1": 7, "conv2": 5, "conv3": 5}


def test_convolutions_of_a_nested_model_have_their_full_names():
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    model = nn.Sequential(block, nn.Conv1d(1, 1, 3), nn.ConvTranspose2d(2, 2, 3), nn.Conv2d(2, 1, 1))
    assert [name for name, _ in convolutions(model)] == ["0.0", "3"]
    assert [name for name, _ in kernel_layers(model)] == ["0.0", "2", "3"]


def test_a_net_with_16x16_kernels_learns():
    model = build(described([{"conv": 4, "kernel": 16, "pool": 2}, {"linear": 8}]), (1, 28, 28), 2)
    assert tuple(model.conv1.weight.shape) == (4, 1, 16, 16)
    # Upper half bright or lower half bright.
    labels = torch.arange(20) % 2
    images = torch.zeros(20, 1, 28, 28)
    images[labels == 0, :, :14] = 1
    images[labels == 1, :, 14:] = 1
    before = model.conv1.weight.clone()
    schedule = Schedule(lr=0.01, steps=10, precision="float32")
    rows = fit(model, cross_entropy(model), (images, labels), schedule, seed=0, every=1)
    losses = [row["value"] for row in rows]
    assert losses[-1] < 0.1 < losses[0]
    assert not torch.equal(model.conv1.weight, before)


def test_the_squared_norm_counts_convolution_kernels_only():
    model = build(CIFAR, (3, 32, 32), 10).double()
    expected = sum((c.weight.detach().numpy() ** 2).sum() for _, c in convolutions(model))
    norm = squared_norm(model)
    assert norm.item() == pytest.approx(expected, rel=1e-12)
    norm.backward()
    paid = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert paid == {"conv1.weight", "conv2.weight", "conv3.weight"}
    torch.testing.assert_close(model.conv1.weight.grad, 2 * model.conv1.weight.detach())
    assert squared_norm(nn.Linear(3, 3)).item() == 0
    assert squared_norm(nn.ConvTranspose2d(3, 3, 5)).item() == 0


# Pixels that pooling drops


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([(7, 2), (5, 2)], 28),
        ([(7, 2), (5, 2)], 29),
        ([(7, 2), (5, 1), (5, 1)], 32),
        ([(3, 3), (4, 2), (2, 3)], 45),
        ([(16, 2)], 28),
    ],
)
def test_cropping_changes_nothing_but_the_work(layers, size):
    network = described([{"conv": 3, "kernel": kernel, "pool": pool} for kernel, pool in layers])
    torch.manual_seed(0)
    whole = build(network, (1, size, size), 4, crop=False).double()
    cropped = build(network, (1, size, size), 4).double()
    cropped.load_state_dict(whole.state_dict())
    x = torch.randn(5, 1, size, size, dtype=torch.float64)
    torch.testing.assert_close(cropped(x), whole(x), rtol=1e-12, atol=1e-12)
    last = size
    for kernel, pool in layers:
        last = (last - kernel + 1) // pool
    needed = network.rows_needed(last)
    assert hasattr(cropped, "crop") == (needed < size)
    # No row too many: the last kept row affects the result.
    x.requires_grad_()
    cropped(x).square().sum().backward()
    assert x.grad[:, :, needed - 1, :needed].abs().max() > 0
    assert bool((x.grad[:, :, needed:] == 0).all())


def test_batch_norm_sees_the_whole_image():
    network = described([{"conv": 3, "kernel": 4, "pool": 2}], batch_norm=True)
    assert not hasattr(build(network, (1, 10, 10), 4), "crop")


def test_padding_adds_zeros_on_all_sides():
    layers = [{"conv": 3, "kernel": 3, "padding": 1, "pool": 2}, {"conv": 2, "kernel": 5, "padding": 1}]
    network = described(layers)
    assert network.check((1, 9, 9)) == 2
    model = build(network, (1, 9, 9), 4).double()
    x = torch.randn(2, 1, 9, 9, dtype=torch.double)
    y = x
    for name in ("conv1", "conv2"):
        layer = model.get_submodule(name)
        y = functional.conv2d(functional.pad(y, (1, 1, 1, 1)), layer.weight, layer.bias)
        y = functional.leaky_relu(functional.max_pool2d(y, 2) if name == "conv1" else y)
    torch.testing.assert_close(model(x), model.classifier(y.flatten(1)))
    with pytest.raises(InputError, match="padding, which the decoder does not mirror"):
        ImageVAE(network, (1, 9, 9), 2)
    with pytest.raises(InputError, match="kernel 5 does not fit the 4×4 image"):
        network.check((1, 4, 4))
