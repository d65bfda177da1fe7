"""Toom-Cook and Fourier convolutions of small maps, with fewer multiplications than the direct sum.

The convolution of one h×h map x with one k×k kernel w is bilinear, so constant matrices
A [r, h²], B [r, k²] and C [o², r] exist with y = C((A x) ⊙ (B w)). Over many maps and channels
the r scalar products become r matrix products, so a layer costs r of them, not the o²·k²
of the direct sum. Two constructions give a small r:

- Toom-Cook (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308): polynomials are multiplied
  by way of their values at points. It needs the fewest products, but its rounding error grows
  fast with the number of points.
- Fourier: a circular convolution is the product of spectra. A complex product takes three real
  ones (Gauss). The rounding error is close to that of the direct sum.

Both mix all pixels of a map, so their rounding error is relative to the largest pixel of the map;
that of the direct sum is relative to the pixels under the kernel.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Finite points of Toom-Cook, by their number, chosen to amplify rounding errors the least.
POINTS = {1: (0.0,), 2: (2 / 3, -2 / 3), 3: (0.0, 1.0, -1.0), 4: (1.25, -1.25, 0.4, -0.4)}

# Forms with a larger `Bilinear.amplification` are not used.
MOST_AMPLIFICATION = 3.5

# Forms with more operations, relative to the direct sum, are not used. Per operation, forms were 0.3 to 1.9
# times as fast as PyTorch's convolution, depending on the processor and the shape.
MOST_OPERATIONS = 1.5


@dataclass(frozen=True)
class Bilinear:
    """A convolution as y = C((A x) ⊙ (B w)), in double precision.

    Attributes:
        of_map: A, [r, h²].
        of_kernel: B, [r, k²].
        to_result: C, [o², r].
    """

    of_map: np.ndarray
    of_kernel: np.ndarray
    to_result: np.ndarray

    def transposed(self) -> "Bilinear":
        """Return the form of the transposed convolution, from o×o to h×h: the adjoint in x."""
        return Bilinear(self.to_result.T, self.of_kernel, self.of_map.T)

    def operations(self, inputs: int, outputs: int, maps: int) -> float:
        """Return the multiply-adds per map, for a batch of `maps` maps."""
        products = len(self.of_map) * inputs * outputs
        kernels = self.of_kernel.size * inputs * outputs / maps
        return inputs * self.of_map.size + products + kernels + outputs * self.to_result.size

    def amplification(self) -> float:
        """Return the rounding error relative to that of the direct sum, the largest of result and gradients.

        It assumes that every product has an independent relative error, and that pixels, weights and
        gradients are independent with unit variance. Errors are root mean squares at the worst pixel.
        """
        # Each with the number of terms of its direct sum. For the kernel's gradient, kernel and result swap.
        of_kernel = Bilinear(self.of_map, self.to_result.T, self.of_kernel.T)
        weights, results = self.of_kernel.shape[1], len(self.to_result)
        forms = (self, weights), (self.transposed(), weights), (of_kernel, results)
        return max(form._error() / terms**0.5 for form, terms in forms)

    def _error(self) -> float:
        products = np.square(self.of_map).sum(1) * np.square(self.of_kernel).sum(1)
        return float(np.sqrt(np.square(self.to_result) @ products).max())


@dataclass(frozen=True)
class Matrices:
    """The matrices of a `Bilinear`, as tensors of one dtype."""

    of_map: Tensor
    of_kernel: Tensor
    to_result: Tensor


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
) -> Matrices | None:
    """Return the form with the fewest operations for a convolution, or None where they are too many.

    Args:
        size: h, rows and columns of a map; of the result, if transposed.
        kernel: k, rows and columns of a kernel.
        padding: zeros at each border of the map.
        inputs: channels of the input.
        outputs: channels of the output.
        maps: batch size.
        dtype: dtype of the matrices.
        transposed: whether the convolution is transposed.
    """
    total = size + 2 * padding
    forms = [fourier(size, kernel, padding)]
    if total - 1 in POINTS:
        forms.append(toom_cook(size, kernel, padding))
    forms = [form for form in forms if form.amplification() <= MOST_AMPLIFICATION]
    if transposed:
        forms = [form.transposed() for form in forms]
    best = min(forms, key=lambda form: form.operations(inputs, outputs, maps), default=None)
    of_the_sum = (total - kernel + 1) ** 2 * kernel**2 * inputs * outputs
    if best is None or best.operations(inputs, outputs, maps) >= MOST_OPERATIONS * of_the_sum:
        return None
    # Tensors created in inference mode cannot be used in training.
    with torch.inference_mode(False):
        matrices = best.of_map, best.of_kernel, best.to_result
        return Matrices(*(torch.from_numpy(np.array(matrix)).to(dtype) for matrix in matrices))


@functools.lru_cache
def toom_cook(size: int, kernel: int, padding: int = 0) -> Bilinear:
    """Return the Toom-Cook form, which evaluates polynomials at h + 2·padding points along each axis."""
    total = size + 2 * padding

    def values(coefficients: int) -> np.ndarray:
        rows = [[point**power for power in range(coefficients)] for point in POINTS[total - 1]]
        at_infinity = [0.0] * (coefficients - 1) + [1.0]
        return np.array([*rows, at_infinity])

    # Polynomials f and w have the product V⁻¹((V f) ⊙ (V w)); the convolution is its transpose in f.
    of_map = np.linalg.inv(values(total)).T[:, padding : padding + size]
    of_result = values(total - kernel + 1)
    return Bilinear(*(np.kron(matrix, matrix) for matrix in (of_map, values(kernel), of_result.T)))


@functools.lru_cache
def fourier(size: int, kernel: int, padding: int = 0) -> Bilinear:
    """Return the Fourier form, with h + padding points along each axis: both borders share their zeros."""
    points = size + padding
    spectrum = np.fft.fft(np.eye(points))
    places = (np.arange(size + 2 * padding - kernel + 1) - padding) % points
    of_map, of_kernel, to_result = (
        np.kron(matrix, matrix)
        for matrix in (
            spectrum[:, :size],
            # A kernel larger than the period wraps around.
            spectrum[:, np.arange(kernel) % points].conj(),
            spectrum[places].conj() / points,
        )
    )
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for index in range(points**2):
        first, second = divmod(index, points)
        opposite = -first % points * points + -second % points
        x, w, y = of_map[index], of_kernel[index], to_result[:, index]
        if index == opposite:
            rows.append((x.real, w.real, y.real))
        elif index < opposite:
            # The spectrum of a real map at the opposite frequency is the conjugate, so twice the real part
            # of the product is the contribution of both; it takes three real products (Gauss).
            real, imaginary = 2 * y.real, -2 * y.imag
            rows.append((x.real + x.imag, w.real, real + imaginary))
            rows.append((x.real, w.imag - w.real, imaginary))
            rows.append((x.imag, w.real + w.imag, -real))
    of_map, of_kernel, to_result = map(np.stack, zip(*rows, strict=True))
    return Bilinear(of_map, of_kernel, to_result.T)
