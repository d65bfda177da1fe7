"""Convolutions in fewer products, compared with the direct sum: results, gradients and rounding."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dwp.nn import bilinear_algorithms, product_conv
from dwp.nn.conv import Conv2d, ConvTranspose2d, MaxPool2d, conv2d, conv_transpose2d, implementation

# (rows of the map, of the kernel, padding, channels in, out): those of priors, of networks, and others.
SHAPES = [
    (5, 3, 1, 1, 8),
    (5, 3, 1, 8, 8),
    (5, 3, 0, 8, 16),
    (3, 3, 0, 8, 6),
    (7, 3, 0, 1, 4),
    (1, 1, 0, 5, 7),
    (6, 1, 0, 5, 7),
    (4, 2, 0, 6, 6),
    (10, 5, 0, 16, 24),
    (11, 5, 2, 16, 24),
    (13, 5, 0, 16, 16),
    (16, 7, 3, 32, 32),
    (6, 5, 3, 12, 12),
    (20, 5, 0, 4, 4),
    (9, 4, 1, 2, 3),
]


def tensors(shape, dtype=torch.float64, maps=6):
    size, kernel, _, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return draw(maps, inputs, size, size), draw(outputs, inputs, kernel, kernel), draw(outputs)


def gradients(result, inputs):
    direction = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=result.dtype)
    return torch.autograd.grad(result, inputs, direction)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_and_its_gradients_are_those_of_the_sum(shape):
    inputs = tensors(shape)
    found = conv2d(*inputs, padding=(shape[2],) * 2)
    expected = functional.conv2d(*inputs, padding=shape[2])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if not shape[2]])
def test_a_transposed_convolution_and_its_gradients_are_those_of_the_sum(shape):
    size, kernel, _, inputs, outputs = shape
    x, weight, _ = tensors((max(1, size - kernel + 1), kernel, 0, inputs, outputs))
    weight = weight.detach().transpose(0, 1).clone().requires_grad_()
    bias = torch.randn(outputs, dtype=torch.float64, requires_grad=True)
    given = x, weight, bias
    found, expected = conv_transpose2d(*given), functional.conv_transpose2d(*given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (2, 2)},
        {"padding": (1, 2)},
        {"padding": "same"},
        {"dilation": (2, 2)},
        {"groups": 2},
    ],
)
def test_what_has_no_such_form_is_left_to_pytorch(change):
    x, weight, bias = tensors((9, 3, 0, 8, 8))
    weight = weight[:, : 8 // change.get("groups", 1)]
    torch.testing.assert_close(
        conv2d(x, weight, bias, **change), functional.conv2d(x, weight, bias, **change)
    )


def test_maps_and_kernels_that_are_not_square_are_left_to_pytorch():
    x, weight = torch.randn(3, 8, 9, 7), torch.randn(8, 8, 3, 5)
    torch.testing.assert_close(conv2d(x, weight), functional.conv2d(x, weight))
    torch.testing.assert_close(conv_transpose2d(x, weight), functional.conv_transpose2d(x, weight))


@pytest.mark.parametrize("shape", [(10, 5, 0, 64, 64), (5, 3, 1, 64, 64), (5, 3, 0, 64, 64)])
def test_rounding_stays_near_that_of_the_sum(shape):
    inputs = [tensor.detach() for tensor in tensors(shape, maps=20)]
    exact = functional.conv2d(*inputs, padding=shape[2])
    rounded = [tensor.float() for tensor in inputs]

    def error(result):
        return ((result.double() - exact).norm() / exact.norm()).item()

    mine = error(conv2d(*rounded, padding=(shape[2],) * 2))
    assert mine < 8 * error(functional.conv2d(*rounded, padding=shape[2]))
    assert mine < 2e-6


@pytest.mark.parametrize(
    ("size", "kernel", "padding"), [(5, 3, 0), (4, 3, 0), (3, 3, 1), (4, 2, 0), (5, 5, 0)]
)
def test_toom_cook_takes_as_many_products_as_there_are_points(size, kernel, padding):
    form = bilinear_algorithms.toom_cook(size, kernel, padding)
    assert len(form.of_map) == (size + 2 * padding) ** 2
    assert_convolves(form, size, kernel, padding)


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "products"),
    # n·n real numbers of a spectrum: the frequencies that are their own opposites (one, or four if n is
    # even) take one product, each pair of the others three.
    [(5, 3, 0, 1 + 3 * 12), (5, 3, 1, 4 + 3 * 16), (10, 5, 0, 4 + 3 * 48), (3, 3, 2, 1 + 3 * 12)],
)
def test_fourier_takes_three_products_for_a_pair_of_frequencies(size, kernel, padding, products):
    form = bilinear_algorithms.fourier(size, kernel, padding)
    assert len(form.of_map) == products
    assert_convolves(form, size, kernel, padding)


def assert_convolves(form, size, kernel, padding):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 1, size, size, generator=generator, dtype=torch.float64)
    w = torch.randn(1, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    expected = functional.conv2d(x, w, padding=padding)
    y = products(form, x, w).view_as(expected)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    expected = functional.conv_transpose2d(y, w, padding=padding)
    z = products(form.transposed(), y, w).view_as(expected)
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


def products(form, x, w):
    y = form.to_result @ ((form.of_map @ x.numpy().ravel()) * (form.of_kernel @ w.numpy().ravel()))
    return torch.from_numpy(y)


@pytest.fixture(autouse=True)
def by_products():
    """Compute convolutions by matrix products also where PyTorch is faster."""
    with implementation("products"):
        yield


def test_no_form_is_cheap_where_kernels_serve_a_single_map():
    shape = (10, 5, 0, 64, 64)
    assert bilinear_algorithms.cheapest(*shape, maps=1, dtype=torch.float32) is None
    assert bilinear_algorithms.cheapest(*shape, maps=256, dtype=torch.float32) is not None


def test_it_takes_fewer_operations_than_the_sum():
    form = bilinear_algorithms.fourier(10, 5, 0)
    of_the_sum = 6**2 * 5**2 * 256 * 512
    assert form.operations(256, 512, 256) < of_the_sum / 4


def test_pytorch_alone_computes_everything_where_it_is_chosen(monkeypatch):
    monkeypatch.setattr(product_conv, "cheapest", lambda *_, **__: pytest.fail("a form was looked for"))
    x, weight, _ = tensors((5, 3, 0, 8, 8))
    with implementation("pytorch"):
        conv2d(x, weight)
        conv_transpose2d(x, weight)
    with pytest.raises(pytest.fail.Exception):
        conv2d(x, weight)


def test_layers_hold_the_parameters_of_pytorchs_and_do_the_same():
    torch.manual_seed(0)
    mine = nn.Sequential(Conv2d(3, 8, 3, padding=1), MaxPool2d(2), ConvTranspose2d(8, 3, 3, bias=False))
    theirs = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ConvTranspose2d(8, 3, 3, bias=False)
    )
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_is_pytorchs_in_every_order_of_memory(window, gradients):
    torch.manual_seed(0)
    maps = torch.randn(4, 5, 8, 8)
    maps[0, 0, 1, 1] = float("nan")
    maps[1, 1, 0, 1] = float("inf")
    pixels = maps.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    expected = functional.max_pool2d(maps, window)
    for x in (maps, maps.contiguous(memory_format=torch.channels_last), pixels):
        found = MaxPool2d(window)(x.requires_grad_(gradients))
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert found.requires_grad == gradients


def test_layers_start_as_pytorchs_do():
    for ours, theirs in ((Conv2d, nn.Conv2d), (ConvTranspose2d, nn.ConvTranspose2d)):
        torch.manual_seed(0)
        mine = ours(4, 6, 3)
        torch.manual_seed(0)
        assert torch.equal(mine.weight, theirs(4, 6, 3).weight)


def test_gradients_have_the_layout_of_their_parameters():
    layer = Conv2d(8, 8, 3)
    layer(torch.randn(4, 8, 5, 5)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_under_autocast_the_products_stay_in_float32():
    x, weight, bias = tensors((10, 5, 0, 32, 32), torch.float32, maps=16)
    expected = conv2d(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv2d(x, weight, bias)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_no_maps_give_no_results():
    assert conv2d(torch.zeros(0, 64, 10, 10), torch.zeros(64, 64, 5, 5)).shape == (0, 64, 6, 6)
