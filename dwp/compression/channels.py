"""Channels of a network: which layers write and read each, found by symbolic tracing.

Every output of a convolution or linear layer is a channel. Channels that are added to each other, or that
go through one layer in turn, are one channel: they can only be removed together.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn

from dwp.errors import InputError
from dwp.nn import noise

Layer = nn.Conv2d | nn.Linear
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

# Each channel by itself; zero stays zero in the first group.
_ZERO_KEPT = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.ReLU6),
    *(nn.Dropout, nn.Dropout2d, nn.AlphaDropout, noise.Dropout),
)
_ZERO_MOVED = (nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, nn.LogSigmoid)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample)
_ELEMENTWISE = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "celu", "selu", "gelu", "silu",
    "mish", "hardswish", "tanh", "softsign", "dropout", "dropout2d", "contiguous", "clone", "float",
}  # fmt: skip
_SHIFTING = {"sigmoid", "softplus", "hardsigmoid", "logsigmoid"}
_POOLING = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate"}
_SUMS = {operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub, "add", "add_", "sub"}


@dataclass(frozen=True)
class _Value:
    """An intermediate tensor: its channels, and their axis.

    Attributes:
        channels: a number for each channel; None if they are unknown.
        flat: whether the channels are the last axis.
        flattened: whether each of them stands for as many features as a map has pixels.
        reason: why the channels are unknown.
    """

    channels: list[int] | None
    flat: bool = False
    flattened: bool = False
    reason: str = ""


@dataclass
class Channels:
    """The channels of a traced network.

    Attributes:
        reads: channels of the inputs of each layer, by name; of a linear layer after flattening each is
            repeated.
        writes: channels of the outputs of each layer, by name.
        norms: channels of each batch normalisation, by name.
        kept: channels that cannot be removed, with the reason: '' for outputs and inputs of the network.
        moved: channels that pass something that maps zero to another number, with its name.
    """

    reads: dict[str, list[int]] = field(default_factory=dict)
    writes: dict[str, list[int]] = field(default_factory=dict)
    norms: dict[str, list[int]] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)
    moved: dict[int, str] = field(default_factory=dict)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kinds = (nn.Conv2d, nn.Linear, *NORMS, *_ZERO_KEPT, *_ZERO_MOVED, *_POOLS, nn.Flatten)
        return isinstance(m, kinds) or super().is_leaf_module(m, module_qualified_name)


class _Analysis:
    """A pass over a graph that follows channels from node to node."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = dict(network.named_modules())
        self.parents: list[int] = []
        self.found = Channels()
        self.kept: list[tuple[list[int], str]] = []
        self.moved: list[tuple[list[int], str]] = []
        self.values: dict[fx.Node, _Value] = {}

    def new(self, number: int) -> list[int]:
        first = len(self.parents)
        self.parents.extend(range(first, first + number))
        return self.parents[first:]

    def root(self, channel: int) -> int:
        while self.parents[channel] != channel:
            self.parents[channel] = self.parents[self.parents[channel]]
            channel = self.parents[channel]
        return channel

    def unite(self, ours: Iterable[int], theirs: Iterable[int]) -> None:
        for one, other in zip(ours, theirs, strict=True):
            self.parents[self.root(other)] = self.root(one)

    def run(self, graph: fx.Graph) -> Channels:
        for node in graph.nodes:
            self.values[node] = self._visit(node)
        roots = {name: list(map(self.root, one)) for name, one in self.found.reads.items()}
        result = Channels(roots)
        result.writes = {name: list(map(self.root, one)) for name, one in self.found.writes.items()}
        result.norms = {name: list(map(self.root, one)) for name, one in self.found.norms.items()}
        for pairs, target in ((self.kept, result.kept), (self.moved, result.moved)):
            # A reason takes precedence over none.
            for channels, reason in sorted(pairs, key=lambda pair: pair[1]):
                target.update(dict.fromkeys(map(self.root, channels), reason))
        return result

    def _visit(self, node: fx.Node) -> _Value:
        if node.op == "placeholder":
            return _Value(None)
        inputs = [self.values[one] for one in node.all_input_nodes]
        if node.op == "output":
            return self._opaque(inputs, "")
        if node.op == "call_module":
            return self._module(str(node.target), self.modules[str(node.target)], inputs)
        if node.op in ("call_function", "call_method"):
            return self._function(node, inputs)
        return _Value(None, reason=f"{node.target}, used without its layer")

    def _opaque(self, inputs: list[_Value], reason: str) -> _Value:
        """Keep the channels of values that something unknown, or the caller of the network, uses."""
        self.kept += [(one.channels, reason) for one in inputs if one.channels is not None]
        return _Value(None, reason=reason)

    def _module(self, name: str, module: nn.Module, inputs: list[_Value]) -> _Value:
        value = inputs[0]
        if isinstance(module, nn.Linear):
            reads = self._spread(value, module.in_features, flat=True)
            return self._layer(name, value, reads, module.out_features, flat=True)
        if isinstance(module, nn.Conv2d):
            reads = self._spread(value, module.in_channels, flat=False)
            if module.groups > 1:
                value, reads = self._opaque([value], f"{name}, a grouped convolution"), None
            return self._layer(name, value, reads, module.out_channels, flat=False)
        if isinstance(module, NORMS):
            channels = self._spread(value, module.num_features, flat=isinstance(module, nn.BatchNorm1d))
            if channels is None:
                return self._opaque(inputs, f"{name} ({type(module).__name__}) after {_origin(value)}")
            if not module.affine:
                self.moved.append((channels, f"{name}, a batch normalisation without parameters"))
            self._enter(self.found.norms, name, channels)
            return _Value(channels, value.flat)
        if isinstance(module, _ZERO_KEPT) or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            return value
        if isinstance(module, _ZERO_MOVED):
            return self._shifting(value, f"{name}, a {type(module).__name__}")
        if isinstance(module, nn.Hardtanh) and module.min_val <= 0 <= module.max_val:
            return value
        if isinstance(module, _POOLS) and not value.flat and not getattr(module, "return_indices", False):
            return value
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return _flat(value)
        return self._opaque(inputs, f"{name}, a {type(module).__name__}")

    def _function(self, node: fx.Node, inputs: list[_Value]) -> _Value:
        target: Any = node.target
        word = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if word in ("size", "dim") or (target is getattr and node.args[1] in ("shape", "dtype", "device")):
            return _Value(None, reason=f"the shape of {node.all_input_nodes[0].name}")
        value = inputs[0] if inputs else _Value(None)
        if word in _ELEMENTWISE and len(inputs) == 1:
            return value
        if word in _SHIFTING and len(inputs) == 1:
            return self._shifting(value, f"{node.name} ({word})")
        if word in _POOLING and not value.flat and len(inputs) == 1:
            return value
        if (target in _SUMS or word in _SUMS) and len(inputs) == 2 and len(node.args) == 2:
            return self._sum(inputs, node.name)
        if target is torch.cat and node.args and all(one.channels and not one.flat for one in inputs):
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            if axis in (1, -3) and isinstance(node.args[0], list | tuple):
                parts = (self.values[cast(fx.Node, one)].channels or [] for one in node.args[0])
                return _Value([channel for part in parts for channel in part])
        if _flattens(node, word):
            return _flat(value)
        if word == "mean" and not value.flat and _over_pixels(node):
            return _Value(value.channels, flat=True, reason=value.reason)
        if word == "getitem" and value.channels is None:
            return _Value(None, reason=value.reason)
        return self._opaque(inputs, f"{node.name} ({word})")

    def _layer(
        self, name: str, value: _Value, reads: list[int] | None, outputs: int, *, flat: bool
    ) -> _Value:
        if reads is None:
            # The inputs of the network, or something unknown: channels that nobody can remove.
            reason = value.reason
            if value.channels is not None:
                reason = f"{name}, whose inputs are not the channels of {_origin(value)}"
                self._opaque([value], reason)
            module = self.modules[name]
            number = module.in_features if isinstance(module, nn.Linear) else module.in_channels
            reads = self.new(number)
            self.kept.append((reads, reason))
            writes = self.new(outputs)
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                self.kept.append((writes, reason))
        else:
            writes = self.new(outputs)
        self._enter(self.found.reads, name, reads)
        self._enter(self.found.writes, name, writes)
        return _Value(self.found.writes[name], flat)

    def _enter(self, table: dict[str, list[int]], name: str, channels: list[int]) -> None:
        """Note the channels of a layer; those of its second use are the same ones."""
        if name in table:
            self.unite(table[name], channels)
        else:
            table[name] = channels

    def _spread(self, value: _Value, number: int, *, flat: bool) -> list[int] | None:
        """Return the channel of each of a layer's inputs, or None if they cannot be told."""
        if value.channels is None or value.flat != flat or not value.channels:
            return None
        repeats, rest = divmod(number, len(value.channels))
        if rest or (repeats != 1 and not value.flattened):
            return None
        return [channel for channel in value.channels for _ in range(repeats)]

    def _shifting(self, value: _Value, reason: str) -> _Value:
        if value.channels is not None:
            self.moved.append((value.channels, reason))
        return value

    def _sum(self, inputs: list[_Value], name: str) -> _Value:
        one, other = inputs
        same = one.channels is not None and other.channels is not None
        same = same and (one.flat, one.flattened) == (other.flat, other.flattened)
        if not same or len(one.channels or []) != len(other.channels or []):
            return self._opaque(inputs, f"{name}, a sum with {_origin(one)} and {_origin(other)}")
        self.unite(one.channels or [], other.channels or [])
        return one


def _flat(value: _Value) -> _Value:
    return value if value.flat else _Value(value.channels, True, True, value.reason)


def _origin(value: _Value) -> str:
    return value.reason or ("the input of the network" if value.channels is None else "other channels")


def _flattens(node: fx.Node, word: str) -> bool:
    """Return whether a node flattens all axes but the first."""
    arguments: tuple[Any, ...] = node.args[1:]
    if word == "flatten":
        start: Any = node.kwargs.get("start_dim", arguments[0] if arguments else 0)
        end: Any = node.kwargs.get("end_dim", -1)
        return (start, end) == (1, -1) and arguments[1:] in ((), (-1,))
    # With a number of features instead of -1 the smaller network would not run.
    return word in ("view", "reshape") and len(arguments) == 2 and arguments[1:] == (-1,)


def _over_pixels(node: fx.Node) -> bool:
    """Return whether a mean is over height and width, without keeping them."""
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
    rest = node.args[2:] or node.kwargs.get("keepdim", False)
    return isinstance(axes, list | tuple) and sorted(axes) in ([2, 3], [-2, -1]) and not rest


def layer_of(network: nn.Module, name: str) -> Layer:
    """Return a convolution or linear layer of a network by its name."""
    return cast(Layer, network.get_submodule(name))


def find_channels(network: nn.Module) -> Channels:
    """Return the channels of a network.

    Raises:
        InputError: it cannot be traced, because its forward pass depends on values.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:
        raise InputError(
            f"shrink: the forward pass of a {type(network).__name__} cannot be traced by torch.fx "
            f"({type(error).__name__}: {error}); write it without branches that depend on tensors"
        ) from None
    return _Analysis(network).run(graph)
