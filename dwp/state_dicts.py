"""Initialise the convolutions in a file of weights, without the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dwp.errors import InputError
from dwp.files import atomic_write, save_tensors
from dwp.initialisation import scaled
from dwp.kernels.files import natural
from dwp.priors.base import Prior

SUFFIXES = (".safetensors", ".pt", ".pth")


def init_file(
    source: str | Path,
    output: str | Path,
    priors: Sequence[Prior],
    *,
    seed: int = 0,
    mean: bool = False,
    as_drawn: bool = False,
) -> dict[str, str]:
    """Draw the kernels of a state dict's convolutions from priors, and write it to another file.

    A convolution is a four-dimensional floating-point tensor [o, i, k, k] named `*.weight`, of the
    kernel size of a prior. The rest is copied: other tensors, metadata of safetensors, other entries of
    a checkpoint with a `state_dict`. Tensors are drawn in the order of their names, so the result does
    not depend on the format.

    Args:
        source: `.safetensors`; or `.pt` or `.pth`, of which only tensors and plain data are unpickled.
        output: a file in one of these formats; it may be the source.
        priors: at most one for each kernel size.
        seed: seed of the draws.
        mean: omit the last layer of noise (a VAE gives its decoder means).
        as_drawn: leave the scale of the kernels. By default, each tensor gets the mean square 2 / (i · k²),
            as by `init_` with the gain 'fan_in'; transposed convolutions are taken for ordinary ones.

    Returns:
        What was done, by the name of every tensor: 'drawn from <kind>' or 'kept'.

    Raises:
        InputError: a file cannot be read or has an unknown suffix, two priors have one size, a prior
            cannot be sampled from, or no tensor matches one of the priors.
        StorageError: see `files.atomic_write`.
    """
    source, output = Path(source), Path(output)
    for path in (source, output):
        if path.suffix not in SUFFIXES:
            raise InputError(f"init: {path} has suffix {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    by_size = {prior.kernel_size: prior for prior in priors}
    if len(by_size) < len(priors):
        raise InputError("init: two priors have the same kernel size; give one for each size")
    content, state, metadata = _load(source)
    done, generator = {}, torch.Generator().manual_seed(seed)
    for name in sorted(state, key=natural):
        weight = state[name]
        prior = by_size.get(_kernel_size(name, weight))
        done[name] = f"drawn from {prior.kind}" if prior else "kept"
        if prior:
            # In place, so that tied tensors of a checkpoint stay tied.
            kernels = prior.sample(weight.shape[:2].numel(), generator, mean=mean)
            kernels = kernels if as_drawn else scaled(kernels, weight[0].numel())
            weight.copy_(kernels.view(weight.shape))
    for size in by_size:
        if not any(_kernel_size(name, weight) == size for name, weight in state.items()):
            raise InputError(f"init: {source} has no convolution of {size}×{size} for a prior of that size")
    _save(content if output.suffix != ".safetensors" else state, output, metadata)
    return done


def _kernel_size(name: str, weight: Tensor) -> int:
    """Return k of a convolution's weight, and 0 for any other tensor."""
    is_weight = name.rpartition(".")[2] == "weight" and weight.ndim == 4 and weight.is_floating_point()
    return weight.shape[2] if is_weight and weight.shape[2] == weight.shape[3] else 0


def _load(path: Path) -> tuple[Any, dict[str, Tensor], dict[str, str] | None]:
    """Return the content of a file, the state dict in it, and its metadata."""
    if not path.is_file():
        raise InputError(f"init: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return state, state, file.metadata()
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"init: {path} cannot be read ({type(error).__name__}: {error})") from None
    except Exception as error:  # of the unpickler, for anything beyond plain data
        raise InputError(f"init: {path} is not a plain state dict ({type(error).__name__})") from None
    inner = content.get("state_dict", content) if isinstance(content, dict) else None
    if not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise InputError(f"init: {path} is not a state dict of tensors")
    return content, inner, None


def _save(content: Any, path: Path, metadata: dict[str, str] | None) -> None:
    if path.suffix != ".safetensors":
        with atomic_write(path) as temporary:
            torch.save(content, temporary)
        return
    try:
        save_tensors({name: tensor.contiguous() for name, tensor in content.items()}, path, metadata)
    except RuntimeError as error:  # of tensors that share memory
        raise InputError(
            f"init: {path} cannot be written as safetensors ({error}); write a .pt file"
        ) from None
