"""Readers of kernels from files: source networks, checkpoints and arrays."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dwp.errors import InputError, extra
from dwp.kernels.files import natural
from dwp.kernels.onnx_files import conv_weights

CHUNK = 65_536
# Names of the dataset of kernels in an HDF5 file.
NAMES = ("kernels", "filter", "filters")


@dataclass(frozen=True)
class Batch:
    """Kernels of one layer of one network, or a part of them, in (out, in) order.

    Attributes:
        net: number of the network.
        layer: name of the layer.
        kernels: [n, 1, k, k] float32.
        first: index of the first kernel within the layer.
        inputs: input channels of the layer.
    """

    net: int
    layer: str
    kernels: np.ndarray
    first: int = 0
    inputs: int = 1


def of_weights(weights: Mapping[str, Tensor], size: int, net: int = 0) -> Iterator[Batch]:
    """Yield the size×size kernels of every convolution weight [o, i, k, k] among named tensors.

    Raises:
        InputError: a weight is not floating point.
    """
    for layer, weight in weights.items():
        if weight.ndim == 4 and weight.shape[2:] == (size, size) and weight.numel():
            if not weight.is_floating_point():
                raise InputError(f"kernels: {layer} has dtype {weight.dtype}; expected floating point")
            kernels = weight.detach().float().reshape(-1, 1, size, size).cpu().numpy()
            yield Batch(net, layer.removesuffix(".weight"), kernels, 0, weight.shape[1])


def read(path: str | Path, size: int, net: int = 0) -> Iterator[Batch]:
    """Yield the size×size kernels in a file.

    Args:
        path: `.safetensors` (tensors named `layer.weight`, or `net/layer.weight` where
            a file holds several networks), `.pt` or `.pth` (a state dict, never unpickled
            beyond tensors), `.onnx` (weights of `Conv`), `.npy` or `.h5` (an array [n, 1, k, k],
            [n, k, k] or [n, k²]; in HDF5 the dataset `kernels`, `filter` as in CNN Filter DB, or the
            only one).
        size: k.
        net: number of the network, where the file does not name it.

    Raises:
        InputError: the file is missing, damaged, of another format or shape, has numbers that are not
            finite, or needs a package that is not installed (HDF5: h5py, ONNX: onnx).
    """
    path = Path(path)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"kernels: {path} has suffix {path.suffix!r}; use one of {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"kernels: there is no file {path}")
    try:
        for batch in reader(path, size, net):
            if not np.isfinite(batch.kernels).all():
                bad = int(np.argmax(~np.isfinite(batch.kernels).all(axis=(1, 2, 3)))) + batch.first
                raise InputError(
                    f"kernels: {path}, {batch.layer}: kernel {bad} has numbers that are not finite"
                )
            yield batch
    except InputError as error:
        raise (error if str(path) in str(error) else InputError(f"{error} (in {path})")) from None
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, EOFError) as error:
        raise InputError(f"kernels: {path} cannot be read ({type(error).__name__}: {error})") from None
    except Exception as error:  # weights_only loading raises pickle's errors for anything beyond tensors
        raise InputError(f"kernels: {path} is not a plain state dict ({type(error).__name__})") from None


def _read_safetensors(path: Path, size: int, net: int) -> Iterator[Batch]:
    with safe_open(path, framework="pt") as file:
        # In numeric order, so that the order of nets does not depend on their grouping into files.
        for key in sorted(file.keys(), key=natural):
            prefix, _, layer = key.rpartition("/")
            yield from of_weights(
                {layer: file.get_tensor(key)}, size, int(prefix) if prefix.isdigit() else net
            )


def _read_state_dict(path: Path, size: int, net: int) -> Iterator[Batch]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"kernels: {path} is not a state dict of tensors")
    yield from of_weights(state, size, net)


def _read_onnx(path: Path, size: int, net: int) -> Iterator[Batch]:
    for name, weight in conv_weights(path, size):
        yield from of_weights({name: weight}, size, net)


def _read_array(array: Any, path: Path, size: int, net: int) -> Iterator[Batch]:
    shape = tuple(array.shape)
    if shape[1:] not in ((size, size), (1, size, size), (size * size,)):
        raise InputError(
            f"kernels: {path} has shape {shape}; "
            f"expected [n, 1, {size}, {size}], [n, {size}, {size}] or [n, {size * size}]"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"kernels: {path} has dtype {array.dtype}; expected floating point")
    for first in range(0, shape[0], CHUNK):
        part = np.ascontiguousarray(array[first : first + CHUNK], dtype=np.float32)
        yield Batch(net, path.stem, part.reshape(-1, 1, size, size), first)


def _read_npy(path: Path, size: int, net: int) -> Iterator[Batch]:
    yield from _read_array(np.load(path, mmap_mode="r", allow_pickle=False), path, size, net)


def _read_hdf5(path: Path, size: int, net: int) -> Iterator[Batch]:
    with extra("workflow", f"kernels: {path}"):
        import h5py
    with h5py.File(path, "r") as file:
        names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        # CNN Filter DB has a table of networks beside the kernels, `meta`, partly pickled: it is not read.
        name = next((name for name in NAMES if name in names), names[0] if len(names) == 1 else None)
        if name is None:
            raise InputError(f"kernels: {path} has datasets {names}; expected one named 'kernels'")
        yield from _read_array(file[name], path, size, net)


READERS: dict[str, Callable[[Path, int, int], Iterator[Batch]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_state_dict,
    ".pth": _read_state_dict,
    ".onnx": _read_onnx,
    ".npy": _read_npy,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
}
