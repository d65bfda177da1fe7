"""Multiplicative scales of groups of weights, learned by Bayesian layers: w = z·w̃.

One scale z multiplies all weights of a group: one input of a linear layer, one output channel of a
convolution. The weights w̃ have the layer's posterior and prior, of any kind; the scales have their own,
which drive the scales of groups that the data does not need to zero or to pure noise (Louizos et al. 2017).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dwp.errors import InputError, unknown
from dwp.nn.precision import at_least_float32

INITIAL_LOG_VARIANCE = -9.0

# The KL from the log-uniform prior: below this α by an expansion in α, above it by a Poisson mixture, of
# which the terms that count for a mean of 1/(2α) <= 32 are computed. The error is below 1e-9 nats.
_SWITCH = 1 / 64
_TERMS = 100
_EXPANSION = [math.prod(range(1, 2 * k, 2)) / (2 * k) for k in range(1, 9)]
_EULER = 0.5772156649015329


class Scales(nn.Module):
    """Positive or signed scales z of g groups, with their posterior and prior.

    Args:
        groups: g.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each scale, [g] each."""
        raise NotImplementedError

    def sample(self, shape: Sequence[int]) -> Tensor:
        """Draw independent samples of all scales, [..., g], for a shape that ends in g."""
        raise NotImplementedError

    def log_dropout(self) -> Tensor:
        """Return the log dropout rate of each group, [g]: groups above a threshold are pruned."""
        raise NotImplementedError

    def kl(self) -> Tensor:
        """Return the KL divergence of the posterior from the prior, in nats, summed over scales."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the number of groups in the module's repr."""
        return f"{self.groups}"


class NormalJeffreys(Scales):
    """Gaussian posteriors N(mean, α·mean²) under p(z) ∝ 1/|z|: group variational dropout.

    The prior is improper, so the KL is defined up to a constant; it is zero for α → ∞. The log dropout rate
    is log α.
    """

    def __init__(self, groups: int) -> None:
        super().__init__(groups)
        self.mean = nn.Parameter(torch.ones(groups))
        self.log_variance = nn.Parameter(torch.full((groups,), INITIAL_LOG_VARIANCE))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each scale, [g] each."""
        return self.mean, self.log_variance.exp()

    def sample(self, shape: Sequence[int]) -> Tensor:
        """Draw independent samples of all scales, [..., g]; see `Scales.sample`."""
        noise = torch.randn(tuple(shape), dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def log_dropout(self) -> Tensor:
        """Return log α = log(variance / mean²) of each scale, [g]."""
        # The floor keeps value and gradient finite where a mean is zero.
        return at_least_float32(self.log_variance) - (at_least_float32(self.mean).square() + 1e-16).log()

    def kl(self) -> Tensor:
        """Return the KL divergence, in nats, summed over scales."""
        return log_uniform_kl(self.log_dropout()).sum()


class Horseshoe(Scales):
    """Log-normal posteriors under a horseshoe prior: z = s·u, s ~ C⁺(0, τ), u ~ C⁺(0, 1) for each group.

    Each half-Cauchy variable is √(a·b) with a ~ Gamma(1/2, scale τ² or 1) and b ~ inverse Gamma(1/2, 1);
    a and b have log-normal posteriors, so that KL divergence and density of z are in closed form. s is
    shared by the groups of the layer. In place of a log dropout rate, groups are ranked by the negative log
    mode of z (Louizos et al. 2017).

    The parameters of the means of log a and log b are in units of |log τ²| nats, the distance from 1 to the
    prior's scale: in nats, at the learning rates of weights, the means would hardly move in a training.

    Args:
        groups: g.
        global_scale: τ.
    """

    def __init__(self, groups: int, global_scale: float = 1e-5) -> None:
        super().__init__(groups)
        if not global_scale > 0:
            raise InputError(f"horseshoe: global_scale is {global_scale}; expected a number above 0")
        self.log_gamma_scale = 2 * math.log(global_scale)
        # a and b in this order. Their means make the mean of z 1.
        far = self.log_gamma_scale
        self.unit = max(1.0, abs(far))
        variance = math.exp(INITIAL_LOG_VARIANCE)
        self.global_mean = nn.Parameter(torch.tensor([far, 0.0]) / self.unit)
        self.global_log_variance = nn.Parameter(torch.full((2,), INITIAL_LOG_VARIANCE))
        local = torch.tensor([[0.0], [-far - variance]])
        self.local_mean = nn.Parameter(local.repeat(1, groups) / self.unit)
        self.local_log_variance = nn.Parameter(torch.full((2, groups), INITIAL_LOG_VARIANCE))

    def log_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean of log z, [g], its variance from u, [g], and its variance from s, []."""
        mean = 0.5 * self.unit * (self.local_mean.sum(0) + self.global_mean.sum())
        return (
            mean,
            0.25 * self.local_log_variance.exp().sum(0),
            0.25 * self.global_log_variance.exp().sum(),
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each scale, [g] each."""
        location, local, shared = self.log_moments()
        variance = local + shared
        mean = (location + 0.5 * variance).exp()
        return mean, mean.square() * variance.expm1()

    def sample(self, shape: Sequence[int]) -> Tensor:
        """Draw independent samples of all scales, [..., g]; see `Scales.sample`."""
        location, local, shared = self.log_moments()
        own, common = (
            torch.randn((*shape[:-1], size), dtype=location.dtype, device=location.device)
            for size in (self.groups, 1)
        )
        return (location + local.sqrt() * own + shared.sqrt() * common).exp()

    def log_dropout(self) -> Tensor:
        """Return the negative log mode of each scale, [g]."""
        location, local, shared = self.log_moments()
        return at_least_float32(local + shared - location)

    def kl(self) -> Tensor:
        """Return the KL divergence, in nats, summed over all log-normal variables."""
        total = torch.zeros((), device=self.local_mean.device)
        for means, log_variances in (
            (self.global_mean, self.global_log_variance),
            (self.local_mean, self.local_log_variance),
        ):
            of_s = means is self.global_mean
            m, v = self.unit * at_least_float32(means), at_least_float32(log_variances)
            total = total + gamma_kl(m[0], v[0], self.log_gamma_scale if of_s else 0.0).sum()
            total = total + inverse_gamma_kl(m[1], v[1]).sum()
        return total

    def extra_repr(self) -> str:
        """Show the number of groups and τ in the module's repr."""
        return f"{self.groups}, global_scale={math.exp(self.log_gamma_scale / 2):g}"


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """Return KL(N(m, α·m²) || p) for p(z) ∝ 1/|z|, elementwise, in nats; zero for α → ∞.

    It is twice the integral of Dawson's function from 0 to √(1/(2α)), which is also the mean of
    1 + 1/3 + … + 1/(2j - 1) over j ~ Poisson(1/(2α)).
    """
    edge = math.log(_SWITCH)
    rate = 0.5 * (-log_alpha.clamp_min(edge)).exp()
    j = torch.arange(_TERMS, dtype=log_alpha.dtype, device=log_alpha.device)
    log_rate = -math.log(2) - log_alpha.clamp_min(edge)
    probabilities = (log_rate[..., None] * j - rate[..., None] - torch.lgamma(j + 1)).exp()
    each = 1 / (2 * j + 1)
    mixture = (probabilities * (each.cumsum(0) - each)).sum(-1)
    alpha = log_alpha.clamp_max(edge).exp()
    series = 0.0 * alpha
    for coefficient in reversed(_EXPANSION):
        series = (series + coefficient) * alpha
    expansion = 0.5 * (_EULER + math.log(2)) - 0.5 * log_alpha.clamp_max(edge) - series
    return torch.where(log_alpha < edge, expansion, mixture)


def gamma_kl(mean: Tensor, log_variance: Tensor, log_scale: float) -> Tensor:
    """Return KL(LogNormal(mean, variance) || Gamma(1/2, scale)), elementwise, in nats."""
    centred = mean - log_scale
    return (centred + 0.5 * log_variance.exp()).exp() - 0.5 * (centred + log_variance + 1 + math.log(2))


def inverse_gamma_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(LogNormal(mean, variance) || inverse Gamma(1/2, scale 1)), elementwise, in nats."""
    # The reciprocal of either variable has the same form.
    return gamma_kl(-mean, log_variance, 0.0)


KINDS: dict[str, Callable[[int], Scales]] = {"normal_jeffreys": NormalJeffreys, "horseshoe": Horseshoe}

Choice = str | Callable[[int], Scales] | None
"""Kind of the scales of a layer: a name, or a function from the number of groups to scales, such as
`functools.partial(Horseshoe, global_scale=1e-3)`; or None for no scales."""


def build(choice: Choice, groups: int, weight: Tensor) -> Scales | None:
    """Return scales of a kind for a layer, on the device and in the dtype of its weight.

    Raises:
        InputError: there is no such kind.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in KINDS:
            raise unknown("scales", choice, KINDS)
        choice = KINDS[choice]
    made = choice(groups)
    if not isinstance(made, Scales):
        raise InputError(f"scales: a {type(made).__name__} is not Scales; give one of {', '.join(KINDS)}")
    return made.to(weight)
