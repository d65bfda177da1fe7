"""Convolutions of small maps with fewer multiplications than their sum has: Toom-Cook and Fourier.

The convolution of one h×h map x with one k×k kernel w is bilinear, so constant matrices
A [r, h²], B [r, k²] and C [o², r] exist with y = C((A x) ⊙ (B w)). Over many maps and channels
the r products of numbers become r products of matrices, and what a layer costs is r, not
the o²·k² multiplications of the sum. Two ways to matrices with a small r:

- Toom-Cook (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308): polynomials are multiplied
  by their values at points. It has the fewest products, and rounding that grows fast with the
  number of points.
- Fourier: a circular convolution is the product of spectra. A product of complex numbers takes
  three real ones (Gauss), and rounding is near that of the sum.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

# With infinity, the points of Toom-Cook: so few that rounding stays within a few times that of the sum.
POINTS = (0.0, 1.0, -1.0, 2.0)

# Operations of a form that take the time of one of PyTorch's own: a compromise, since for small maps it
# is 0.8 to 1.9 of them, by shape.
SLOWER = 1.25


@dataclass(frozen=True)
class Bilinear:
    """A convolution as y = C((A x) ⊙ (B w)).

    Attributes:
        of_map: A, [r, h²].
        of_kernel: B, [r, k²].
        to_result: C, [o², r].
    """

    of_map: Tensor
    of_kernel: Tensor
    to_result: Tensor

    def transposed(self) -> "Bilinear":
        """Return the same of the transposed convolution, from o×o to h×h: the adjoint in x."""
        return Bilinear(self.to_result.T, self.of_kernel, self.of_map.T)

    def operations(self, inputs: int, outputs: int, maps: int) -> float:
        """Return the multiply-adds for each map, where so many share their kernels."""
        products = len(self.of_map) * inputs * outputs
        kernels = self.of_kernel.numel() * inputs * outputs / maps
        return inputs * self.of_map.numel() + products + kernels + outputs * self.to_result.numel()

    def to(self, dtype: torch.dtype) -> "Bilinear":
        """Return the same in another dtype."""
        matrices = self.of_map, self.of_kernel, self.to_result
        return Bilinear(*(matrix.to(dtype, memory_format=torch.contiguous_format) for matrix in matrices))


@functools.lru_cache
def cheapest(
    size: int,
    kernel: int,
    padding: int,
    inputs: int,
    outputs: int,
    maps: int,
    dtype: torch.dtype,
    *,
    transposed: bool = False,
) -> Bilinear | None:
    """Return the form of a convolution that takes the fewest operations; None where the sum is cheaper.

    Args:
        size: h, rows and columns of a map; of the result, if transposed.
        kernel: k, rows and columns of a kernel.
        padding: zeros at each border of the map.
        inputs: channels; `outputs` likewise.
        maps: how many of each channel share their kernels.
        dtype: of the matrices.
        transposed: whether it is the transposed convolution.
    """
    total = size + 2 * padding
    forms = [fourier(size, kernel, padding)]
    if total <= len(POINTS) + 1:
        forms.append(toom_cook(size, kernel, padding))
    if transposed:
        forms = [form.transposed() for form in forms]
    best = min(forms, key=lambda form: form.operations(inputs, outputs, maps))
    of_the_sum = (total - kernel + 1) ** 2 * kernel**2 * inputs * outputs
    return best.to(dtype) if best.operations(inputs, outputs, maps) < SLOWER * of_the_sum else None


def toom_cook(size: int, kernel: int, padding: int = 0) -> Bilinear:
    """Return the convolution by values of polynomials at h + 2·padding points in either direction."""
    total = size + 2 * padding

    def values(coefficients: int) -> Tensor:
        rows = [[point**power for power in range(coefficients)] for point in POINTS[: total - 1]]
        at_infinity = [0.0] * (coefficients - 1) + [1.0]
        return torch.tensor([*rows, at_infinity], dtype=torch.float64)

    # Polynomials f and w have the product V⁻¹((V f) ⊙ (V w)); the convolution is its transpose in f.
    of_map = torch.linalg.inv(values(total)).T[:, padding : padding + size]
    of_result = values(total - kernel + 1)
    return Bilinear(*(torch.kron(matrix, matrix) for matrix in (of_map, values(kernel), of_result.T)))


def fourier(size: int, kernel: int, padding: int = 0) -> Bilinear:
    """Return the convolution by spectra of h + padding points: the zeros at one border serve the other."""
    points = size + padding
    spectrum = torch.fft.fft(torch.eye(points, dtype=torch.float64))
    places = (torch.arange(size + 2 * padding - kernel + 1) - padding) % points
    of_map, of_kernel, to_result = (
        torch.kron(matrix, matrix)
        for matrix in (
            spectrum[:, :size],
            spectrum[:, :kernel].conj(),
            spectrum[places].conj() / points,
        )
    )
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in range(points**2):
        first, second = divmod(index, points)
        opposite = -first % points * points + -second % points
        x, w, y = of_map[index], of_kernel[index], to_result[:, index]
        if index == opposite:
            rows.append((x.real, w.real, y.real))
        elif index < opposite:
            # Of real maps the spectrum at the opposite frequency is the conjugate, so that the real part
            # of twice the product is both their shares; three products give it (Gauss).
            real, imaginary = 2 * y.real, -2 * y.imag
            rows.append((x.real + x.imag, w.real, real + imaginary))
            rows.append((x.real, w.imag - w.real, imaginary))
            rows.append((x.imag, w.real + w.imag, -real))
    of_map, of_kernel, to_result = (torch.stack(matrix) for matrix in zip(*rows, strict=True))
    return Bilinear(of_map, of_kernel, to_result.T)
