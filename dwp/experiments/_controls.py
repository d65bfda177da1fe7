"""Controls that tell the structure of initial kernels from their scale."""

import torch
from torch import nn

from dwp.nn.convnet import kernel_layers


@torch.no_grad()
def remove_structure_(model: nn.Module, control: str, seed: int) -> None:
    """Replace the kernels of a model, in place, by ones of the same norms without structure.

    Args:
        model: its kernels k×k are changed, each on its own.
        control: 'shuffled' permutes the weights within each kernel at random; 'noise' draws white noise
            with the norm of each kernel; 'none' changes nothing.
        seed: seed of the permutations and the noise.
    """
    if control == "none":
        return
    generator = torch.Generator().manual_seed(seed)
    for _, layer in kernel_layers(model):
        kernels = layer.weight.flatten(2).cpu()
        noise = torch.randn(kernels.shape, generator=generator)
        if control == "shuffled":
            kernels = kernels.gather(2, noise.argsort(2))
        else:
            kernels = noise * (kernels.norm(dim=2, keepdim=True) / noise.norm(dim=2, keepdim=True))
        layer.weight.copy_(kernels.view(layer.weight.shape))
