"""Smaller networks: pruned channels are removed, not masked."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from dwp.compression.channels import NORMS, Channels, Layer, find_channels, layer_of
from dwp.compression.masks import Masked, Threshold, mask
from dwp.compression.report import Row, ShrinkReport
from dwp.compression.resizing import replace, resized, resized_norm
from dwp.errors import InputError


def shrink(
    model: nn.Module, threshold: Threshold = "histogram", weight_threshold: float | None = None
) -> nn.Module:
    """Return an ordinary network without the pruned channels of a Bayesian model, which is unchanged.

    Its weights are posterior means. Its outputs equal those of the masked network (see `masked`) up to
    rounding: a channel is removed if no layer writes to it, or if none reads it, with its weights in all
    layers and batch normalisations. Each layer keeps at least one input and output. A linear layer with
    pruned inputs that others use becomes a `LinearOfSome`.

    Args:
        model: a Bayesian model of convolutions, linear layers, batch normalisations, pooling, flattening,
            activations, dropout, sums and concatenations of channels.
        threshold: log dropout rate above which a group is pruned, see `masks.Threshold`.
        weight_threshold: also prune single weights with a larger log(variance / mean²), see `masks.mask`.

    Returns:
        The network. Its attribute `shrink_report` is a table of all layers.

    Raises:
        InputError: the model cannot be traced, pruned channels go through something by which they cannot
            be removed (the message has its name), or see `masks.mask`.
    """
    found = mask(model, threshold, weight_threshold)
    network, channels, alive = _masked(found)
    rows = []
    for name in channels.reads:
        layer = layer_of(network, name)
        inputs, outputs = (
            _indices([alive[c] for c in table[name]]) for table in (channels.reads, channels.writes)
        )
        smaller, row = _smaller(name, layer, inputs, outputs, found.variances.get(name))
        rows.append(row)
        network = replace(network, layer, smaller)
    for name, numbers in channels.norms.items():
        norm = network.get_submodule(name)
        chosen = _indices([alive[c] for c in numbers])
        state = {key: value[chosen] if value.ndim else value for key, value in norm.state_dict().items()}
        network = replace(network, norm, resized_norm(norm, state))
    network.__dict__["shrink_report"] = ShrinkReport(tuple(rows), found.thresholds)
    return network


def masked(
    model: nn.Module, threshold: Threshold = "histogram", weight_threshold: float | None = None
) -> nn.Module:
    """Return an ordinary network of the model's sizes, in which pruned channels are zero; see `shrink`.

    Its weights are posterior means, and zero where pruned. Where all weights of a channel are zero, its bias
    and the shift of its batch normalisation are zero too.
    """
    return _masked(mask(model, threshold, weight_threshold))[0]


def _smaller(
    name: str, layer: Layer, inputs: Tensor, outputs: Tensor, variances: Tensor | None
) -> tuple[nn.Module, Row]:
    """Return a layer with some of its inputs and outputs, given by indices, and its row of the report."""

    def chosen(tensor: Tensor) -> Tensor:
        grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
        return tensor[outputs] if grouped else tensor[outputs][:, inputs]

    used = None
    if isinstance(layer, nn.Linear):
        used = _indices(chosen(layer.weight.detach()).any(0).tolist())
        used, inputs = (None if len(used) == len(inputs) else used), inputs[used]
    weight = chosen(layer.weight.detach())
    bias = None if layer.bias is None else layer.bias.detach()[outputs]
    deviation = math.nan
    if variances is not None and bool(weight.any()):
        deviation = chosen(variances)[weight != 0].mean().sqrt().item()
    row = Row(name, tuple(layer.weight.shape), tuple(weight.shape), deviation)
    return resized(layer, weight, bias, used), row


@torch.no_grad()
def _masked(found: Masked) -> tuple[nn.Module, Channels, dict[int, bool]]:
    """Return the masked network, its channels, and which of them stay."""
    network = found.network
    channels = find_channels(network)
    written, alive = _liveness(network, channels)
    _refuse(found, channels, alive)
    off = {one for one, is_written in written.items() if not is_written and one not in channels.kept}
    for table in (channels.writes, channels.norms):
        for name, numbers in table.items():
            module = cast("Layer | nn.BatchNorm2d", network.get_submodule(name))
            chosen = [index for index, channel in enumerate(numbers) if channel in off]
            if module.bias is not None:
                module.bias[chosen] = 0
            if isinstance(module, NORMS) and module.weight is not None:
                module.weight[chosen] = 0
    for table in (channels.reads, channels.writes):
        for numbers in table.values():
            # A layer keeps at least one input and one output; they are zero, or not used.
            if not any(alive[channel] for channel in numbers):
                alive[numbers[0]] = True
    return network, channels, alive


def _liveness(network: nn.Module, channels: Channels) -> tuple[dict[int, bool], dict[int, bool]]:
    """Return whether any layer writes to each channel, and whether the channel is written to and read."""
    tables = (channels.reads, channels.writes, channels.norms)
    every = sorted({channel for table in tables for numbers in table.values() for channel in numbers})
    alive, written = dict.fromkeys(every, True), dict.fromkeys(every, True)
    # Inputs of the network; and constants, since zero becomes another number on the way.
    outside = _external(channels) | channels.moved.keys()
    nonzero = {name: _nonzero(network, name) for name in channels.reads}
    while True:
        written = {channel: channel in outside for channel in every}
        read = {channel: channel in channels.kept for channel in every}
        for name, there in nonzero.items():
            reads, writes = channels.reads[name], channels.writes[name]
            inputs = torch.tensor([alive[c] for c in reads], device=there.device)
            outputs = torch.tensor([alive[c] for c in writes], device=there.device)
            rows = there.any(1) if there.shape[1] != len(inputs) else there[:, inputs].any(1)
            columns = inputs if there.shape[1] != len(inputs) else there[outputs].any(0)
            for channel, is_written in zip(writes, rows.tolist(), strict=True):
                written[channel] |= is_written
            for channel, is_read in zip(reads, columns.tolist(), strict=True):
                read[channel] |= is_read
        now = {c: (written[c] and read[c]) or c in channels.kept for c in every}
        if now == alive:
            return written, alive
        alive = now


def _external(channels: Channels) -> set[int]:
    """Return the channels that no layer writes to, since they are inputs of the network."""
    inside = {channel for numbers in channels.writes.values() for channel in numbers}
    return {channel for numbers in channels.reads.values() for channel in numbers} - inside


def _refuse(found: Masked, channels: Channels, alive: dict[int, bool]) -> None:
    """Raise InputError for convolutions with pruned output channels that cannot be removed."""
    for name, number in found.pruned.items():
        layer = found.network.get_submodule(name)
        if number and not isinstance(layer, Layer):
            raise InputError(
                f"shrink: layer {name}: {number} output channels are pruned, but those of a "
                f"{type(layer).__name__} cannot be removed; leave out the scales of this layer"
            )
    rows = {name: _nonzero(found.network, name).any(1).tolist() for name in channels.writes}
    written = {
        channel
        for name, numbers in channels.writes.items()
        for channel, is_written in zip(numbers, rows[name], strict=True)
        if is_written
    }
    for name, numbers in channels.writes.items():
        if not found.pruned.get(name) or isinstance(layer_of(found.network, name), nn.Linear):
            continue
        for channel in numbers:
            if channel in written or not alive[channel]:
                continue
            if reason := channels.kept.get(channel, ""):
                reason = f"they go through {reason}"
            elif channel in channels.moved and channel not in channels.kept:
                reason = f"zero does not stay zero in {channels.moved[channel]}"
            if reason:
                raise InputError(
                    f"shrink: layer {name}: {found.pruned[name]} of {len(numbers)} output channels are "
                    f"pruned, but cannot be removed: {reason}; leave out the scales of this layer"
                )


def _nonzero(network: nn.Module, name: str) -> Tensor:
    """Return where the kernels of a layer are not zero, [o, i]."""
    there = layer_of(network, name).weight.detach() != 0
    return there.flatten(2).any(2) if there.ndim > 2 else there


def _indices(chosen: list[bool]) -> Tensor:
    """Return the indices of what is chosen, at least one."""
    return torch.tensor(chosen).nonzero().flatten() if any(chosen) else torch.tensor([0])
