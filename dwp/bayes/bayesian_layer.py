"""Bayesian layers: convolutions and linear layers with a posterior over their weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes import posteriors, scales
from dwp.bayes.posteriors import ALL, Factorised, Point
from dwp.bayes.prior_choice import Weighted
from dwp.errors import InputError
from dwp.nn.conv import Conv2d, conv2d, plain_conv2d
from dwp.nn.noise import Noise, Stochastic
from dwp.nn.precision import at_least_float32
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.distributions import noise_like


class BayesianLayer(Stochastic):
    """A layer with a posterior over its weights and a prior; the bias stays deterministic.

    With scales, the weight is the product of the posterior's weight and one scale for each group, see
    `dwp.bayes.scales`. The layer keeps the arguments and training mode of the layer that it replaces, and
    which of weight and bias are trained. Subclasses define `map`, and how scales enter.

    Args:
        layer: the layer to replace; the posterior starts from its weight.
        prior: prior over k×k kernels of the weight [o, i, k, k], or over 1×1, for a weight of any shape;
            shared by all kernels; not copied, see `Posterior`.
        form: name of the posterior's form, see `dwp.bayes.posteriors`.
        scale_kind: kind of the scales, see `scales.Choice`.
        largest_variance: upper bound of the variances of an additive posterior; None for no bound.
    """

    group_axis: int
    """Axis of the weight along which groups are."""

    def __init__(
        self,
        layer: Weighted | nn.Embedding,
        prior: Prior,
        form: str = "additive",
        scale_kind: scales.Choice = None,
        largest_variance: float | None = None,
    ) -> None:
        super().__init__()
        self.posterior = posteriors.build(form, layer.weight, prior, largest_variance)
        self.posterior.requires_grad_(layer.weight.requires_grad)
        self.scales = scales.build(scale_kind, layer.weight.shape[self.group_axis], layer.weight)
        if self.scales is not None:
            self.scales.requires_grad_(layer.weight.requires_grad)
        bias = getattr(layer, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)
        # Sizes, stride and so on, which models may read.
        for name in layer.__constants__:
            setattr(self, name, getattr(layer, name))
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """One sample of the weight, or its mean without noise, for models that use the weight themselves."""
        return self.sample_once(lambda: self.draw(sampled=self.noise is not Noise.NONE))

    def draw(self, *, sampled: bool) -> Tensor:
        """Return one sample of the weight, scales included, or its mean."""
        weight = self.posterior.weight(sampled=sampled)
        if self.scales is None:
            return weight
        z = self.scales.sample([self.scales.groups]) if sampled else self.scales.moments()[0]
        return weight * self.by_group(z)

    def weight_moments(self) -> tuple[Tensor, Tensor]:
        """Return posterior mean and variance of each weight, scales included, in float32 or wider.

        Raises:
            InputError: the posterior's variance has no closed form.
        """
        if isinstance(self.posterior, Factorised):
            mean, log_variance = map(at_least_float32, self.posterior.moments())
            variance = log_variance.exp()
        elif isinstance(self.posterior, Point):
            mean = at_least_float32(self.posterior.value)
            variance = torch.zeros_like(mean)
        else:
            raise InputError(
                f"posterior: the weights of a {type(self.posterior).__name__} posterior have no variances in "
                "closed form; use additive"
            )
        if self.scales is None:
            return mean, variance
        z, spread = (self.by_group(at_least_float32(moment)) for moment in self.scales.moments())
        return z * mean, spread * (variance + mean.square()) + z.square() * variance

    def by_group(self, z: Tensor) -> Tensor:
        """Return one number for each group, [g], in a shape that broadcasts with the weight."""
        return z.view([-1 if axis == self.group_axis else 1 for axis in range(len(self.posterior.shape))])

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False) -> Tensor:
        """Return the outputs for x with a given weight and bias; `plain`: without fast forms."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map x as the replaced layer does, with noise."""
        if self.noise is not Noise.OUTPUTS:
            return self.map(x, self.weight, self.bias)
        return self.noisy(x, self.bias) if self.scales is None else self.scaled(x, self.scales)

    def scaled(self, x: Tensor, z: scales.Scales) -> Tensor:
        """Map x with noise and with scales drawn for each image."""
        raise NotImplementedError

    def noisy(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Map x with independent noise at each output, without scales."""
        if isinstance(self.posterior, Factorised):
            mean, log_variance = self.posterior.moments()
            location = self.map(x, mean, bias)
            # By the direct sum, which has no negative terms; a fast form could round to below zero.
            squares, variances = at_least_float32(x).square(), at_least_float32(log_variance).exp()
            variance = self.map(squares, variances, None, plain=True)
            # The floor keeps the gradient of the root finite where all inputs of an output are zero.
            deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
            return torch.addcmul(location, deviation.to(location.dtype), noise_like(location))
        # For other posteriors the outputs have no closed form: one sample of the weights for all images.
        weight = self.weight if self.scales is None else self.posterior.weight(sampled=True)
        return self.map(x, weight, bias)

    def kl(self, estimator: KLEstimator = ALL) -> Tensor:
        """Return the KL of the posteriors of weights and scales, in nats, summed; see `Prior.kl`."""
        kl = self.posterior.kl(estimator)
        return kl if self.scales is None else kl + self.scales.kl()


class BayesConv2d(BayesianLayer):
    """A Bayesian convolution, see `BayesianLayer`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    padding_mode: str
    dilation: tuple[int, ...]
    groups: int
    group_axis = 0

    def __init__(self, layer: nn.Conv2d, prior: Prior, *options: Any, **named: Any) -> None:
        super().__init__(layer, prior, *options, **named)
        self.has_fast_forms = isinstance(layer, Conv2d)
        self._reversed_padding_repeated_twice = layer._reversed_padding_repeated_twice

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        if self.padding_mode != "zeros":
            x = functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return super().forward(x)

    def scaled(self, x: Tensor, z: scales.Scales) -> Tensor:
        """Map x [n, i, h, w] with scales of output channels, drawn for each image."""
        y = self.noisy(x, None)
        y = y * z.sample(y.shape[:-2])[..., None, None].to(y.dtype)
        return y if self.bias is None else y + self.bias[:, None, None]

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False) -> Tensor:
        """Return the convolution of a padded x [n, i, h, w] with a weight [o, i, k, k]."""
        padding = self.padding if self.padding_mode == "zeros" else (0, 0)
        convolve = (plain_conv2d if plain else conv2d) if self.has_fast_forms else functional.conv2d
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)


class BayesLinear(BayesianLayer):
    """A Bayesian linear layer, see `BayesianLayer`; maps x [..., i] to [..., o]."""

    group_axis = 1

    def scaled(self, x: Tensor, z: scales.Scales) -> Tensor:
        """Map x [..., i] with scales of inputs, drawn for each row."""
        return self.noisy(x * z.sample(x.shape).to(x.dtype), self.bias)

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False) -> Tensor:
        """Return the product of x [..., i] with a weight [o, i]."""
        return functional.linear(x, weight, bias)
