"""A Gaussian over kernels with a closed-form covariance, which needs no learned kernels."""

import math

import torch

from dwp.priors._elliptical import plus_sphere
from dwp.priors.base import Prior, register
from dwp.priors.gaussian import Gaussian
from dwp.priors.settings import StructuredGaussianSettings


@register
class StructuredGaussian(Gaussian):
    """N(0, Σ) with the covariance of smooth filters around a centre; it is not fitted.

    After Trockman, Willmott & Kolter ("Understanding the Covariance Structure of Convolutional Filters",
    ICLR 2023), who build the covariance of the filters of depthwise convolutions from Gaussian bumps. It is
    a variant of their construction and not a copy: its constants were chosen here. With
    z_p = exp(-‖p‖² / 2σ²) for a weight at position p from the centre, the covariance of weights p and q is

        Σ_pq ∝ √(z_p z_q) · exp(-‖p - q‖² / 2σ²) - ½ z_p z_q,

    a mask times a bump that moves with the weight (their dynamic component), less one that stays in the
    centre (their static component). Adapted here: the mask is the geometric mean of the two weights', in
    place of symmetrising the product, which with the factor ½ makes Σ positive definite for every k and σ;
    bumps do not wrap around the kernel; a share of white noise bounds the condition number; σ is a setting
    in place of a schedule over the depth of the network; and the scale is that of He's initialisation,
    E‖w‖² = tr Σ = 2 / inputs.

    Args:
        kernel_size: k.
        inputs: input channels of the layers.
        width: σ / k.
        noise: fraction of the variance that is white noise.
    """

    settings_class = StructuredGaussianSettings
    # It inherits the densities of a fitted kind, and not its fit.
    fit = Prior.__dict__["fit"]

    def __init__(
        self,
        kernel_size: int,
        inputs: int = StructuredGaussianSettings.inputs,
        width: float = StructuredGaussianSettings.width,
        noise: float = StructuredGaussianSettings.noise,
    ) -> None:
        super().__init__(kernel_size, inputs=inputs, width=width, noise=noise)
        position = torch.arange(kernel_size).double() - (kernel_size - 1) / 2
        points = torch.cartesian_prod(position, position) / (math.sqrt(2) * width * kernel_size)
        z = (-points.square().sum(1)).exp()
        moving = (z[:, None] * z).sqrt() * (-torch.cdist(points, points).square()).exp()
        covariance = moving - 0.5 * z[:, None] * z
        covariance *= (1 - noise) / covariance.trace()
        covariance = plus_sphere(covariance, noise / len(covariance))
        self.factor.copy_(torch.linalg.cholesky(2 / inputs * covariance))
