"""Choice of the prior of each layer, from what users give: priors, sizes, names and a default."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dwp.errors import InputError, unknown
from dwp.nn.conv import Conv2d, ConvTranspose2d
from dwp.priors.base import Prior
from dwp.priors.standard_normal import StandardNormal

Weighted = _ConvNd | nn.Linear
"""A layer that a prior can be for: a convolution of any kind, or a linear layer."""

_STANDARD = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)

# Methods that `forward` of some of these classes calls.
_CALLED = ("_conv_forward", "_output_padding")

Priors = Prior | Iterable[Prior] | Mapping[int | str, Prior | None]
"""One prior, one for each kernel size, or priors by kernel size or layer name; the name takes precedence.
None leaves layers as they are."""

Default = str | Prior | Callable[[Weighted], Prior | None] | None
"""The prior of layers that no other prior matches: 'standard_normal' (N(0, 1 / fan-in) for each weight), a
prior over 1×1 kernels, a function from the layer to its prior or None, or None: they stay as they are."""


class PriorChoice:
    """The prior of each layer, or the reason why it has none.

    A prior over k×k kernels is for two-dimensional convolutions of this size. A prior over 1×1 kernels is
    a distribution of single weights: by name or as the default, it is for layers of any shape.

    Args:
        priors: see `Priors`. A kernel size is that of convolutions, never of linear layers.
        default: see `Default`.

    Raises:
        InputError: these are no priors, or there are two over one kernel size.
    """

    def __init__(self, priors: Priors, default: Default) -> None:
        self.by_key = _by_key(priors)
        self.default = _maker(default)
        self.used: set[int] = set()

    def check_names(self, names: list[str]) -> None:
        """Raise InputError if a name among the keys is not that of a layer."""
        for key in self.by_key:
            if isinstance(key, str) and key not in names:
                nearest = difflib.get_close_matches(key, names, 1, cutoff=0)
                raise InputError(
                    f"priors[{key!r}]: the model has no convolution or linear layer of this name; "
                    + (f"the nearest is {nearest[0]!r}" if nearest else "it has none at all")
                )

    def key(self, names: list[str], layer: Weighted) -> int | str | None:
        """Return the key of a layer: one of its names, its kernel size, or None for the default.

        Raises:
            InputError: several of its names are keys, with different priors.
        """
        own = [name for name in names if name in self.by_key]
        for name in own[1:]:
            if self.by_key[name] is not self.by_key[own[0]]:
                raise InputError(f"priors: {own[0]} and {name} are one layer; give it one prior")
        for key in self.by_key:
            if not isinstance(key, str) and kernel(layer) == (key, key):
                self.used.add(key)
                return own[0] if own else key
        return own[0] if own else None

    def missing(self, key: int | str | None, layer: Weighted) -> str:
        """Return why there is no prior for the key of a layer, or an empty string if there is one."""
        if key is not None:
            return "" if self.by_key[key] else f"None is given for {key}"
        if self.default:
            return ""
        return (
            f"no prior over {times(kernel(layer))} kernels" if kernel(layer) else "no prior of its name"
        ) + ", and no default"

    def prior(self, key: int | str | None, name: str, layer: Weighted) -> Prior | None:
        """Return the prior for the key of a layer; None only if a default function returns it.

        Raises:
            InputError: the default is not a prior, or the prior is over kernels of another size.
        """
        prior = self.by_key[key] if key is not None else self.default and self.default(layer)
        if prior is not None:
            _check_prior(f"default of {title(name)}", prior)
            _check_size(name, layer, prior)
        return prior

    def unused(self) -> tuple[int, ...]:
        """Return the kernel sizes that have a prior and that no layer had so far."""
        return tuple(
            key
            for key in self.by_key
            if not isinstance(key, str) and key not in self.used and self.by_key[key]
        )


def fan_in(layer: Weighted) -> int:
    """Return the number of weights that one output of a layer sums over, for a stride of 1."""
    outputs, inputs, *size = layer.weight.shape
    if isinstance(layer, _ConvTransposeNd):
        inputs = outputs // layer.groups
    return inputs * math.prod(size)


def standard(layer: Weighted) -> type[Weighted]:
    """Return the class of a layer in `torch.nn`, of which it may be a subclass."""
    return next(cls for cls in _STANDARD if isinstance(layer, cls))


def computes_else(layer: Weighted) -> str:
    """Return how a layer differs from its class in `torch.nn`, or an empty string if it does not."""
    cls = standard(layer)
    # Checked on the instance, since some libraries replace the methods of a single layer.
    forward, *inner = (
        getattr(getattr(layer, name, None), "__func__", None) for name in ("forward", *_CALLED)
    )
    same = (cls.forward, Conv2d.forward, ConvTranspose2d.forward)
    if forward in same and inner == [getattr(cls, name, None) for name in _CALLED]:
        return ""
    return (
        f"a {type(layer).__name__} computes something else than nn.{cls.__name__}, which a Bayesian "
        "layer would lose"
    )


def kernel(layer: Weighted) -> tuple[int, ...]:
    """Return the kernel size of a convolution; empty for a linear layer."""
    return () if isinstance(layer, nn.Linear) else layer.kernel_size


def times(sizes: Iterable[int]) -> str:
    """Return sizes as text, '3×5'."""
    return "×".join(map(str, sizes))


def title(name: str) -> str:
    """Return the name of a layer for error messages; the empty name is the whole model."""
    return f"layer {name}" if name else "the model itself"


def _by_key(priors: Priors) -> dict[int | str, Prior | None]:
    if isinstance(priors, Mapping):
        for key, prior in priors.items():
            if not isinstance(key, int | str):
                raise InputError(
                    f"priors[{key!r}]: a key is a {type(key).__name__}; use a kernel size (a whole number) "
                    "or the name of a layer"
                )
            if prior is not None:
                _check_prior(f"priors[{key!r}]", prior)
        return dict(priors)
    if isinstance(priors, Prior):
        priors = [priors]
    elif isinstance(priors, str) or not isinstance(priors, Iterable):
        _check_prior("priors", priors)
    by_size: dict[int | str, Prior | None] = {}
    for prior in priors:
        _check_prior("priors", prior)
        if prior.kernel_size in by_size:
            raise InputError(f"priors: two priors over {times([prior.kernel_size] * 2)} kernels; give one")
        by_size[prior.kernel_size] = prior
    return by_size


def _maker(default: Default) -> Callable[[Weighted], Prior | None] | None:
    """Return the function from a layer to its default prior; None if there is no default."""
    if isinstance(default, str):
        if default != StandardNormal.kind:
            raise unknown("default", default, [StandardNormal.kind])
        return lambda layer: StandardNormal(1, scale=fan_in(layer) ** -0.5)
    if isinstance(default, Prior):
        return lambda layer: default
    if isinstance(default, type) or not (default is None or callable(default)):
        _check_prior("default", default)
    return default


def _check_prior(where: str, prior: object) -> None:
    if not isinstance(prior, Prior):
        raise InputError(
            f"{where}: a {type(prior).__name__} is not a prior; give a dwp.Prior, from dwp.load_prior say"
        )


def _check_size(name: str, layer: Weighted, prior: Prior) -> None:
    size = prior.kernel_size
    if size == 1 or kernel(layer) == (size, size):
        return
    if isinstance(layer, nn.Linear):
        raise InputError(
            f"{title(name)}: it is linear and has no kernels, its prior is over {times([size] * 2)}; "
            "give one over single weights, 1×1"
        )
    raise InputError(
        f"{title(name)}: its kernels are {times(kernel(layer))}, its prior is over {times([size] * 2)}; "
        "give one over kernels of its size"
    )
