"""Small convolutions against PyTorch's in double precision: random shapes, layouts, dtypes, scales and modes.

python -m pytest --hypothesis-profile long tests/test_convolution_properties.py
"""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch.nn import functional

from dwp.nn import bilinear_algorithms, product_conv
from dwp.nn.conv import conv2d, conv_transpose2d, implementation

# Root mean square error of a result or gradient, relative to that of the sums' squared terms, in units of the
# dtype's rounding: some `MOST_AMPLIFICATION` times that of a sum, whose terms are rounded a few times each.
ROUNDINGS = 12


@pytest.fixture(autouse=True, scope="module")
def by_products():
    """Compute convolutions by matrix products also where PyTorch is faster."""
    with implementation("products"):
        yield


@dataclass(frozen=True)
class Case:
    """One convolution: shapes, and the layout of its tensors."""

    maps: int
    inputs: int
    outputs: int
    size: int
    kernel: int
    padding: int
    transposed: bool
    dtype: torch.dtype
    layout: str
    bias: bool
    scale: float
    seed: int

    def tensors(self) -> list[torch.Tensor]:
        """Return x, weight and any bias as leaves that require gradients."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(self.dtype)

        channels = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        x = laid_out(draw(self.maps, self.inputs, self.size, self.size, scale=self.scale), self.layout)
        weight = laid_out(draw(*channels, self.kernel, self.kernel), self.layout)
        found = [x, weight] + ([draw(self.outputs, scale=self.scale)] if self.bias else [])
        return [tensor.requires_grad_() for tensor in found]

    def ours(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return our result."""
        return (
            conv_transpose2d(*tensors) if self.transposed else conv2d(*tensors, padding=(self.padding,) * 2)
        )

    def pytorchs(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return PyTorch's result."""
        if self.transposed:
            return functional.conv_transpose2d(*tensors)
        return functional.conv2d(*tensors, padding=self.padding)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a tensor of the same values in another memory order."""
    match layout:
        case "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        case "pixels":
            return x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
        case "strided":
            return x.repeat_interleave(2, 3)[..., ::2]
        case "transposed":
            return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x


@st.composite
def cases(draw: st.DrawFn) -> Case:
    transposed = draw(st.booleans())
    size, kernel = draw(st.integers(1, 18)), draw(st.integers(1, 9))
    padding = 0 if transposed else draw(st.integers(0, 4))
    assume(transposed or kernel <= size + 2 * padding)
    channels = st.sampled_from([1, 2, 3, 5, 8, 16, 24])
    return Case(
        maps=draw(st.sampled_from([1, 2, 3, 7, 20])),
        inputs=draw(channels),
        outputs=draw(channels),
        size=size,
        kernel=kernel,
        padding=padding,
        transposed=transposed,
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
        layout=draw(st.sampled_from(["contiguous", "channels_last", "pixels", "strided", "transposed"])),
        bias=draw(st.booleans()),
        scale=draw(st.sampled_from([1e-12, 1e-3, 1.0, 1e6])),
        seed=draw(st.integers(0, 2**16)),
    )


def small(**changes: object) -> Case:
    """Return a case of small maps of several channels, computed by a form."""
    usual = {
        "maps": 6,
        "inputs": 16,
        "outputs": 24,
        "size": 10,
        "kernel": 5,
        "padding": 0,
        "transposed": False,
    }
    usual |= {"dtype": torch.float64, "layout": "contiguous", "bias": True, "scale": 1.0, "seed": 0}
    return Case(**usual | changes)


def assert_near(found: torch.Tensor, exact: torch.Tensor, size: torch.Tensor, pytorchs: torch.Tensor) -> None:
    """Check a result or gradient.

    Args:
        found: ours; `pytorchs` is PyTorch's in the same dtype.
        exact: in double precision.
        size: the root of the sum of its squared terms.
    """
    assert found.shape == exact.shape
    error, its = ((tensor.double() - exact).norm() for tensor in (found, pytorchs))
    if pytorchs.dtype == torch.float64:
        # Here the direct sum has similar rounding errors.
        assert error <= 1e-13 * size.norm()
        return
    allowed = ROUNDINGS * torch.finfo(pytorchs.dtype).eps * size.norm() + 4 * its
    assert error <= allowed, f"{error / size.norm():g}, PyTorch's {its / size.norm():g}"


@given(cases())
@example(small(maps=8, size=1, kernel=3, padding=1))
@example(small(size=2, kernel=5, padding=2))
@example(small(size=3, kernel=7, padding=3))
def test_results_and_gradients_are_the_sums(case):
    tensors = case.tensors()
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    squares = [tensor.detach().square().requires_grad_() for tensor in exact]
    results = case.ours(*tensors), case.pytorchs(*exact), case.pytorchs(*squares), case.pytorchs(*tensors)
    found, expected, size, its = results
    assert_near(found, expected, size.detach().sqrt(), its)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(case.dtype)
    directions = direction, direction.double(), direction.double().square(), direction
    leaves = tensors, exact, squares, tensors
    gradients = map(torch.autograd.grad, results, leaves, directions)
    for mine, right, square, its in zip(*gradients, strict=True):
        assert_near(mine, right, square.sqrt(), its)


@given(cases())
@example(small())
def test_gradients_of_gradients_are_the_sums(case):
    tensors = [tensor.detach().double().requires_grad_() for tensor in case.tensors()]

    def penalty(convolve):
        y = convolve(*tensors)
        gradients = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), tensors)

    for mine, theirs in zip(penalty(case.ours), penalty(case.pytorchs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


TRANSFORMS = {
    "vmap of grad": lambda f, x, w: torch.func.vmap(
        torch.func.grad(lambda x, w: f(x[None], w).square().sum()), (0, None)
    )(x, w),
    "grad over weights": lambda f, x, w: torch.func.grad(lambda w: f(x, w).square().sum())(w),
    "vmap over weights": lambda f, x, w: torch.func.vmap(f, (None, 0))(x, torch.stack([w, 2 * w])),
    "jvp": lambda f, x, w: torch.func.jvp(lambda x: f(x, w), (x,), (torch.ones_like(x),))[1],
    "hessian": lambda f, x, w: torch.func.hessian(lambda b: f(x[:1], w * b).square().sum())(x.new_ones(())),
    "jacobian": lambda f, x, w: torch.autograd.functional.jacobian(
        lambda b: f(x[:1], w * b).mean((1, 2, 3)), x.new_ones(2)[:1], vectorize=True
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@given(cases())
@example(small())
@example(small(size=5, inputs=1, kernel=3))
def test_transformed_functions_are_pytorchs(name, case):
    x, weight, *_ = (tensor.detach().double() for tensor in case.tensors())
    mine, theirs = (TRANSFORMS[name](convolve, x, weight) for convolve in (case.ours, case.pytorchs))
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10 * max(theirs.abs().max().item(), 1e-300))


@given(cases(), st.sampled_from([math.inf, -math.inf, math.nan]), st.integers(0, 2**16))
@example(small(dtype=torch.float32), math.inf, 5)
def test_what_is_not_finite_stays_where_it_is_in_pytorchs(case, value, place):
    tensors = [tensor.detach() for tensor in case.tensors()]
    index = place % tensors[0].numel()
    x = tensors[0].clone()
    x[tuple(int(i) for i in torch.unravel_index(torch.tensor(index), x.shape))] = value
    found, expected = (convolve(x, *tensors[1:]) for convolve in (case.ours, case.pytorchs))
    torch.testing.assert_close(found.isnan(), expected.isnan())
    torch.testing.assert_close(found.isinf(), expected.isinf())


@given(cases(), st.lists(st.sampled_from(["inference", "meta", "no_grad", "train"]), min_size=2, max_size=4))
@example(small(), ["inference", "train"])
@example(small(size=7, inputs=1, kernel=3), ["meta", "inference", "train"])
def test_any_mode_leaves_training_possible(case, modes):
    bilinear_algorithms.cheapest.cache_clear()
    product_conv._met.cache_clear()
    contexts = {
        "inference": torch.inference_mode,
        "no_grad": torch.no_grad,
        "meta": lambda: torch.device("meta"),
        "train": torch.enable_grad,
    }
    tensors = case.tensors()
    for mode in [*modes, "train"]:
        with contexts[mode]():
            found = case.ours(*tensors)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), tensors),
        torch.autograd.grad(case.pytorchs(*tensors).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * max(theirs.abs().max().item(), 1e-30))


@given(cases().filter(lambda case: case.dtype == torch.float32))
@example(small(dtype=torch.float32))
@example(small(dtype=torch.float32, inputs=1, size=5, kernel=3, padding=1))
@example(small(dtype=torch.float32, kernel=1))
@example(small(dtype=torch.float32, size=5))
@example(small(dtype=torch.float32, size=1, transposed=True))
def test_under_autocast_results_are_as_precise_as_their_dtype(case):
    tensors = [tensor.detach() for tensor in case.tensors()]
    exact = [tensor.double() for tensor in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        found = case.ours(*tensors)
    # Larger maps are PyTorch's, in bfloat16.
    its = case.pytorchs(*(tensor.to(found.dtype) for tensor in tensors))
    size = case.pytorchs(*(tensor.square() for tensor in exact)).sqrt()
    assert_near(found, case.pytorchs(*exact), size, its)
