"""Bayesian layers: convolutions and linear layers with a posterior over their weights."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dwp.bayes import posteriors, scales
from dwp.bayes.posteriors import ALL, Factorised, Point
from dwp.bayes.prior_choice import Weighted, standard
from dwp.errors import InputError
from dwp.nn.conv import Conv2d, conv2d, plain_conv2d
from dwp.nn.noise import Noise, Stochastic
from dwp.nn.precision import at_least_float32
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.distributions import noise_like

# By the number of dimensions.
_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


class BayesianLayer(Stochastic):
    """A layer with a posterior over its weights and a prior; the bias stays deterministic.

    With scales, the weight is the product of the posterior's weight and one scale for each group, see
    `dwp.bayes.scales`. The layer keeps the arguments and training mode of the layer that it replaces, and
    which of weight and bias are trained. Subclasses define `map`, and how scales enter.

    Args:
        layer: the layer to replace; the posterior starts from its weight.
        prior: prior over k×k kernels, which are the last two axes of the weight, or over 1×1, for a weight of
            any shape; shared by all kernels; not copied, see `Posterior`.
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
        self.scales = scales.build(scale_kind, self.count_groups(layer), layer.weight)
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

    def count_groups(self, layer: Weighted | nn.Embedding) -> int:
        """Return the number of groups of the weights of a layer."""
        return layer.weight.shape[self.group_axis]

    def by_group(self, z: Tensor) -> Tensor:
        """Return one number for each group, [g], in a shape that broadcasts with the weight."""
        return z.view([-1 if axis == self.group_axis else 1 for axis in range(len(self.posterior.shape))])

    def map(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False, **options: Any
    ) -> Tensor:
        """Return the outputs for x with a given weight and bias.

        Args:
            x: inputs.
            weight: shaped like the replaced layer's.
            bias: [o], or None.
            plain: without fast forms.
            options: further arguments of the replaced layer's `forward`.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map x as the replaced layer does, with noise."""
        return self.outputs(x)

    def outputs(self, x: Tensor, **options: Any) -> Tensor:
        """Return the outputs for x, with noise; for `options` see `map`."""
        if self.noise is not Noise.OUTPUTS:
            return self.map(x, self.weight, self.bias, **options)
        if self.scales is None:
            return self.noisy(x, self.bias, **options)
        return self.scaled(x, self.scales, **options)

    def scaled(self, x: Tensor, z: scales.Scales, **options: Any) -> Tensor:
        """Map x with noise and with scales drawn for each image; for `options` see `map`."""
        raise NotImplementedError

    def noisy(self, x: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
        """Map x with independent noise at each output, without scales; for `options` see `map`."""
        if isinstance(self.posterior, Factorised):
            mean, log_variance = self.posterior.moments()
            location = self.map(x, mean, bias, **options)
            # By the direct sum, which has no negative terms; a fast form could round to below zero.
            squares, variances = at_least_float32(x).square(), at_least_float32(log_variance).exp()
            variance = self.map(squares, variances, None, plain=True, **options)
            # The floor keeps the gradient of the root finite where all inputs of an output are zero.
            deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
            return torch.addcmul(location, deviation.to(location.dtype), noise_like(location))
        # For other posteriors the outputs have no closed form: one sample of the weights for all images.
        weight = self.weight if self.scales is None else self.posterior.weight(sampled=True)
        return self.map(x, weight, bias, **options)

    def kl(self, estimator: KLEstimator = ALL) -> Tensor:
        """Return the KL of the posteriors of weights and scales, in nats, summed; see `Prior.kl`."""
        kl = self.posterior.kl(estimator)
        return kl if self.scales is None else kl + self.scales.kl()


class BayesConv(BayesianLayer):
    """A Bayesian convolution in one, two or three dimensions, see `BayesianLayer`.

    Attributes:
        ordinary: class of the layer without a posterior: one of `torch.nn`, or a subclass of one.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    output_padding: tuple[int, ...]
    padding_mode: str
    dilation: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    group_axis = 0

    def __init__(self, layer: _ConvNd, prior: Prior, *options: Any, **named: Any) -> None:
        super().__init__(layer, prior, *options, **named)
        self.ordinary: type[nn.Module] = Conv2d if isinstance(layer, Conv2d) else standard(layer)
        self._reversed_padding_repeated_twice = layer._reversed_padding_repeated_twice

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, ...] to [n, o, ...]."""
        if self.padding_mode != "zeros":
            x = functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return self.outputs(x)

    def scaled(self, x: Tensor, z: scales.Scales, **options: Any) -> Tensor:
        """Map x [n, i, ...] with scales of output channels, drawn for each image."""
        y, pixels = self.noisy(x, None, **options), [1 for _ in self.kernel_size]
        channels = y.shape[: -len(pixels)]
        y = y * z.sample(channels).view(*channels, *pixels).to(y.dtype)
        return y if self.bias is None else y + self.bias.view(-1, *pixels)

    def map(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False, **options: Any
    ) -> Tensor:
        """Return the convolution of a padded x [n, i, ...] with a weight [o, i / groups, ...]."""
        padding = self.padding if self.padding_mode == "zeros" else tuple(0 for _ in self.kernel_size)
        convolve = self.convolution(plain=plain)
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def convolution(self, *, plain: bool) -> Callable[..., Tensor]:
        """Return the function that computes the convolution; `plain`: without fast forms."""
        return _CONVOLUTIONS[len(self.kernel_size)]


class BayesConv2d(BayesConv):
    """A Bayesian convolution in two dimensions, with the fast forms of the layer that it replaces."""

    def convolution(self, *, plain: bool) -> Callable[..., Tensor]:
        """Return the function that computes the convolution; `plain`: without fast forms."""
        if self.ordinary is not Conv2d:
            return functional.conv2d
        return plain_conv2d if plain else conv2d


class BayesConvTranspose(BayesConv):
    """A Bayesian transposed convolution in one, two or three dimensions, see `BayesianLayer`.

    A prior over k×k kernels is over w[i, o], of the weight [i, o / groups, k, k], as in `dwp.init_`.
    """

    # Any, since PyTorch annotates it for TorchScript, with lists in place of tuples.
    _output_padding: Any = _ConvTransposeNd._output_padding

    def count_groups(self, layer: Weighted | nn.Embedding) -> int:
        """Return the number of output channels of a layer."""
        return cast(_ConvNd, layer).out_channels

    def by_group(self, z: Tensor) -> Tensor:
        """Return one number for each output channel, [o], in a shape that broadcasts with the weight."""
        inputs, outputs, *kernel = self.posterior.shape
        z = z.view(self.groups, 1, outputs).expand(-1, inputs // self.groups, -1)
        return z.reshape(inputs, outputs, *(1 for _ in kernel))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map x [n, i, ...] to [n, o, ...], of a given size where the stride leaves a choice."""
        return self.outputs(x, output_size=output_size)

    def map(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False, **options: Any
    ) -> Tensor:
        """Return the transposed convolution of x [n, i, ...] with a weight [i, o / groups, ...]."""
        size, dimensions = options.get("output_size"), len(self.kernel_size)
        output_padding = self._output_padding(
            x, size, self.stride, self.padding, self.kernel_size, dimensions, self.dilation
        )
        transposed = _TRANSPOSED[dimensions]
        return transposed(
            x, weight, bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class BayesLinear(BayesianLayer):
    """A Bayesian linear layer, see `BayesianLayer`; maps x [..., i] to [..., o]."""

    group_axis = 1

    def scaled(self, x: Tensor, z: scales.Scales, **options: Any) -> Tensor:
        """Map x [..., i] with scales of inputs, drawn for each row."""
        return self.noisy(x * z.sample(x.shape).to(x.dtype), self.bias, **options)

    def map(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, plain: bool = False, **options: Any
    ) -> Tensor:
        """Return the product of x [..., i] with a weight [o, i]."""
        return functional.linear(x, weight, bias)
