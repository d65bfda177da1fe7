"""Random Gabor filters and differences of Gaussians, which need no learned kernels."""

import math

import torch
from torch import Tensor

from dwp.priors.base import Prior, register
from dwp.priors.settings import GaborSettings

# Ratio of the standard deviations of a difference of Gaussians (Marr & Hildreth 1980).
RATIO = 1.6
# Standard deviation of a Gabor filter's envelope by its wavelength, for a bandwidth of one octave.
ENVELOPE = 0.56


@register
class Gabor(Prior):
    """A dictionary of the filters of classical vision, with random parameters; it has no density.

    A Gabor filter (Daugman 1985) is exp(-(x'² + γ² y'²) / 2σ²) · cos(2π x'/λ + φ) in coordinates that are
    rotated by θ around the centre. λ is log-uniform from 2 to 2k pixels, θ and φ are uniform, γ is
    uniform from 1/2 to 1 and σ = 0.56 λ. A difference of Gaussians has the standard deviations s and 1.6 s,
    with s log-uniform from 1/2 to k/2 pixels, and a random sign.

    The norms are those of white noise: ‖w‖² is 2/inputs · χ²/k² with k² degrees of freedom, so that only
    the directions of the kernels differ from He's initialisation.

    Args:
        kernel_size: k, from 2.
        inputs: input channels of the layers.
        blobs: fraction of differences of Gaussians.
    """

    settings_class = GaborSettings

    def __init__(
        self, kernel_size: int, inputs: int = GaborSettings.inputs, blobs: float = GaborSettings.blobs
    ) -> None:
        super().__init__(kernel_size, inputs=inputs, blobs=blobs)
        self.inputs, self.blobs = inputs, blobs

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        k = self.kernel_size

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

        position = torch.arange(k) - (k - 1) / 2
        x, y = torch.meshgrid(position, position, indexing="xy")
        wavelength = uniform(math.log(2), math.log(2 * k)).exp()
        angle, phase, aspect = uniform(0, math.pi), uniform(0, 2 * math.pi), uniform(0.5, 1)
        along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        envelope = along.square() + (aspect * across).square()
        w = (-envelope / (2 * (ENVELOPE * wavelength).square())).exp()
        w = w * (2 * math.pi * along / wavelength + phase).cos()

        inner = uniform(math.log(0.5), math.log(k / 2)).exp()
        sign = uniform(-1, 1).sign()
        blob = sign * (_bump(x, y, inner) - _bump(x, y, RATIO * inner))
        w = torch.where(uniform(0, 1) < self.blobs, blob, w)

        noise = torch.randn(n, k * k, generator=generator).norm(dim=1).view(n, 1, 1, 1)
        norm = w.flatten(1).norm(dim=1).clamp_min(1e-30).view(n, 1, 1, 1)
        return w / norm * noise * math.sqrt(2 / self.inputs) / k


def _bump(x: Tensor, y: Tensor, deviation: Tensor) -> Tensor:
    """Return an isotropic Gaussian density at coordinates [k, k], for deviations [n, 1, 1, 1]."""
    variance = deviation.square()
    return (-(x.square() + y.square()) / (2 * variance)).exp() / (2 * math.pi * variance)
