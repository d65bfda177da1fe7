"""Table of a model's layers with their priors, or why they have none."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class LayerReport:
    """A layer, and what initialisation or conversion did to it.

    Attributes:
        name: name in the model; the first, if there are several. For a weight of any other module, the name
            of the parameter.
        kind: class of the layer.
        shape: shape of the weight; empty if it has none yet.
        prior: kind and kernel size of the prior; empty if there is none.
        reason: why there is no prior; empty if there is one.
        before: root mean square of the weight; NaN if it has no values.
        after: the same afterwards; of a Bayesian layer, of its posterior's mean.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    prior: str
    reason: str
    before: float
    after: float


@dataclass(frozen=True)
class Report:
    """The layers of a model in order; prints as a table.

    Attributes:
        layers: one row for each convolution and linear layer, and for each weight matrix of other modules.
        unused: kernel sizes of priors that no layer of the model has.
    """

    layers: tuple[LayerReport, ...]
    unused: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def changed(self) -> list[str]:
        """Names of the layers that got a prior."""
        return [layer.name for layer in self if layer.prior]

    def afterwards(self, weights: Mapping[str, Tensor]) -> "Report":
        """Return the report with the scales of weights, by layer name, as those afterwards."""
        layers = (
            dataclasses.replace(layer, after=scale(weights[layer.name])) if layer.name in weights else layer
            for layer in self
        )
        return dataclasses.replace(self, layers=tuple(layers))

    def __str__(self) -> str:
        rows = [("layer", "kind", "weight", "scale", "prior")]
        for layer in self:
            shape = "×".join(map(str, layer.shape)) or "–"
            scales = f"{layer.before:.3g}" + (f" → {layer.after:.3g}" if layer.prior else "")
            rows.append(
                (layer.name or "–", layer.kind, shape, scales, layer.prior or f"none: {layer.reason}")
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        total = sum(math.prod(layer.shape) for layer in self)
        covered = sum(math.prod(layer.shape) for layer in self if layer.prior)
        share = f" ({covered / total:.0%} of the weights)" if total else ""
        lines.append(f"{len(self.changed)} of {len(self)} layers have a prior{share}.")
        if self.unused:
            sizes = ", ".join(f"{size}×{size}" for size in self.unused)
            lines.append(f"Unused: no layer has kernels of {sizes}.")
        return "\n".join(lines)


@torch.no_grad()
def scale(weight: Tensor) -> float:
    """Return the root mean square of a weight; NaN if it has no values."""
    if is_lazy(weight) or weight.is_meta:
        return math.nan
    wide = weight if weight.dtype == torch.float64 else weight.float()
    return wide.square().mean().sqrt().item()
