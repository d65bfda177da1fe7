"""Low-precision weights: bit widths from posterior variances, and files of that size.

The weights of a layer are stored as whole multiples of a step, a power of two not above the root mean square
of their posterior standard deviations. Rounding to it moves a weight by less than its uncertainty.
"""

import copy
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dwp.compression.channels import NORMS, Layer, layer_of
from dwp.compression.report import ShrinkReport
from dwp.compression.resizing import replace, resized, resized_norm
from dwp.errors import InputError
from dwp.files import load_tensors, save_tensors

FORMAT = "dwp-network-1"
# Widest whole numbers that float32 holds exactly; wider weights are stored as they are.
WIDEST = 24
PLACES = ".places"  # ends the name of a tensor with the places of weights that are not zero


@dataclass(frozen=True)
class Precision:
    """How the weights of a layer are stored.

    Attributes:
        bits: width of each weight; 0 if they are stored as they are.
        step: the weights are whole multiples of it.
    """

    bits: int
    step: float


def precision(weight: Tensor, deviation: float) -> Precision:
    """Return bit width and step for a weight whose posterior standard deviations have a root mean square.

    Args:
        weight: of any shape.
        deviation: root mean square of the standard deviations; NaN or zero if there is none.
    """
    if not (deviation > 0 and math.isfinite(deviation)):
        return Precision(0, 0.0)
    step = 2.0 ** math.floor(math.log2(deviation))
    largest = round((weight.detach().double().abs().max() / step).item())
    # Two's complement: a sign, and as many bits as the largest number has.
    bits = largest.bit_length() + 1
    return Precision(bits, step) if bits <= WIDEST else Precision(0, 0.0)


def precisions(network: nn.Module) -> dict[str, Precision]:
    """Return bit width and step of each layer of a network from `shrink`, by name.

    Raises:
        InputError: the network is not from `shrink`, so that no posterior variances are known.
    """
    report = network.__dict__.get("shrink_report")
    if not isinstance(report, ShrinkReport):
        raise InputError(
            f"precision: a {type(network).__name__} without posterior variances; give a result of dwp.shrink"
        )
    return {row.name: precision(layer_of(network, row.name).weight, row.deviation) for row in report.rows}


@torch.no_grad()
def round_(network: nn.Module) -> dict[str, Precision]:
    """Round the weights of a network from `shrink`, in place; return the bit width and step of each layer.

    Raises:
        InputError: see `precisions`.
    """
    found = precisions(network)
    for name, one in found.items():
        if one.bits:
            weight = layer_of(network, name).weight
            weight.copy_((weight.double() / one.step).round() * one.step)
    return found


def save(network: nn.Module, path: str | Path) -> int:
    """Write a network from `shrink` with rounded weights to a safetensors file; return its size in bytes.

    Other tensors (biases, batch normalisations) are stored as they are. Where it takes less space, only the
    weights that are not zero are stored, with their places: a bit for each weight, compressed. The network is
    unchanged.

    Raises:
        InputError: see `precisions`; or a layer is used under several names.
        StorageError: see `files.atomic_write`.
    """
    found = precisions(network)
    names = [name for name, _ in network.named_modules(remove_duplicate=False)]
    for name in names:
        for first in found:
            if name != first and network.get_submodule(name) is network.get_submodule(first):
                raise InputError(f"network: layers {first} and {name} are one; give each its own weights")
    tensors, packed = {}, {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        layer, _, kind = name.rpartition(".")
        one = found.get(layer)
        if one and one.bits and kind == "weight":
            whole = (tensor.double() / one.step).round().long()
            packed[name] = {"bits": one.bits, "step": one.step, "shape": list(tensor.shape)}
            tensor = _pack(whole, one.bits)
            places, values = _places(whole), _pack(whole[whole != 0], one.bits)
            if len(places) + len(values) < len(tensor):
                tensors[f"{name}{PLACES}"], tensor = places, values
        # A copy, since safetensors refuses tensors that share memory.
        tensors[name] = tensor.clone()
    header = json.dumps({"format": FORMAT, "packed": packed}, sort_keys=True)
    save_tensors(tensors, path, {"dwp": header})
    return Path(path).stat().st_size


def load(path: str | Path, network: nn.Module) -> nn.Module:
    """Return a copy of an ordinary network with the weights of a file from `save`, and with its sizes.

    Args:
        path: the file.
        network: the network before it was made Bayesian, or of the same architecture with any number of
            channels.

    Raises:
        InputError: the file is missing, damaged or another one, or does not belong to the network.
    """
    tensors, header = load_tensors(path, "network")
    if header.get("format") != FORMAT:
        raise InputError(f"network: {path} is not a compressed network (format {header.get('format')!r})")
    try:
        for name, one in header["packed"].items():
            places = tensors.pop(f"{name}{PLACES}", None)
            tensors[name] = _read(tensors[name], places, one["bits"], one["shape"]) * one["step"]
    except (KeyError, TypeError, ValueError, RuntimeError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"network: {path} is damaged: {type(error).__name__} {reason}") from None
    network = copy.deepcopy(network)
    devices = {tensor.device for tensor in network.state_dict().values()} or {torch.device("cpu")}
    tensors = {name: tensor.to(min(devices, key=str)) for name, tensor in tensors.items()}
    for name, module in list(network.named_modules()):
        prefix = f"{name}." if name else ""
        state = {
            key: tensors[prefix + key] for key in (*module.state_dict(), "inputs") if prefix + key in tensors
        }
        if isinstance(module, Layer) and "weight" in state and state["weight"].ndim == module.weight.ndim:
            weight = state["weight"].to(module.weight.dtype)
            network = replace(
                network, module, resized(module, weight, state.get("bias"), state.get("inputs"))
            )
        elif isinstance(module, NORMS):
            network = replace(network, module, resized_norm(module, state))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"network: {path} is not of this {type(network).__name__}: {error}") from None
    return network


def _places(whole: Tensor) -> Tensor:
    """Return where whole numbers are not zero, a bit for each, as compressed bytes."""
    bits = np.packbits((whole != 0).flatten().numpy())
    return torch.frombuffer(bytearray(zlib.compress(bits.tobytes(), 9)), dtype=torch.uint8)


def _read(stored: Tensor, places: Tensor | None, bits: int, shape: list[int]) -> Tensor:
    """Return the whole numbers of a tensor in float64; with `places`, those not stored are zero."""
    if places is None:
        return _unpack(stored, bits, shape)
    count = math.prod(shape)
    size = (count + 7) // 8
    reader = zlib.decompressobj()
    found = reader.decompress(places.numpy().tobytes(), size + 1)  # no more, whatever is stored
    if len(found) != size or not reader.eof:
        raise ValueError(f"expected the places of {count} weights")
    nonzero = np.unpackbits(np.frombuffer(found, dtype=np.uint8), count=count).astype(bool)
    whole = torch.zeros(count, dtype=torch.float64)
    whole[torch.from_numpy(nonzero)] = _unpack(stored, bits, [int(nonzero.sum())])
    return whole.view(shape)


def _pack(whole: Tensor, bits: int) -> Tensor:
    """Return whole numbers of any shape as bytes, with `bits` bits for each."""
    numbers = whole.flatten().numpy() & ((1 << bits) - 1)
    columns = (numbers[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(columns.astype(np.uint8)))


def _unpack(packed: Tensor, bits: int, shape: list[int]) -> Tensor:
    """Return the whole numbers in bytes from `_pack`, in a given shape, in float64."""
    count = math.prod(shape)
    columns = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits).astype(np.int64)
    numbers = (columns << np.arange(bits)).sum(1)
    numbers -= (columns[:, -1] << bits) if bits else 0
    return torch.from_numpy(numbers.astype(np.float64)).view(shape)
