"""Data of the latent-space explorer: kernels decoded on a grid of codes, and the nearest real kernels."""

import base64
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dwp.kernels import store
from dwp.priors.base import PriorWithCodes
from dwp.report.results import Results

SIDE = 41
"""Codes along each axis of the grid."""
REACH = 2.5
"""Half the width of the plane, in units of its axes."""
KERNELS = 20_000
"""At most so many training kernels are encoded and compared."""


@dataclass(frozen=True)
class Explorer:
    """The explorer of one prior: its description, the names of its axes, and its data for the script.

    `rows` is 1 for one-dimensional codes, otherwise `SIDE`. `json` has the kernels of each cell of the grid,
    row by row from the top left, as bytes in base64: 128 is zero, 255 is `limit`.
    """

    text: str
    names: tuple[str, ...]
    rows: int
    json: str


@torch.no_grad()
def explorer(results: Results, *, prior: str, size: int) -> Explorer:
    """Return the explorer of a prior with codes.

    The plane is that of the codes if they have at most two dimensions; otherwise it goes through the mean
    code of the training kernels along its first two principal directions, in standard deviations.

    Args:
        results: results of the run.
        prior: name of a prior with `encode` and `decode`.
        size: size of the kernels.
    """
    coded = results.priors[prior][size]
    assert isinstance(coded, PriorWithCodes)
    real = store.load(results.stores[size], "train")[:KERNELS]
    codes = torch.cat([coded.encode(part)[0] for part in real.split(4096)])
    centre, axes, names, text = _plane(codes)
    rows = SIDE if len(axes) > 1 else 1
    steps = torch.linspace(-REACH, REACH, SIDE)
    places = torch.cartesian_prod(steps.flip(0), steps).flip(1) if rows > 1 else steps[:, None]
    decoded = coded.decode(centre + places @ axes)[0].cpu()
    nearest = real[torch.cdist(decoded.flatten(1), real.flatten(1)).argmin(1)]
    limit = float(torch.maximum(decoded.abs().max(), nearest.abs().max())) or 1.0
    data = {
        "columns": SIDE,
        "rows": rows,
        "size": size,
        "limit": limit,
        "reach": REACH,
        "names": names,
        "decoded": _text(128 + 127 * decoded / limit),
        "nearest": _text(128 + 127 * nearest / limit),
        "density": _text(_density((codes - centre) @ torch.linalg.pinv(axes), rows)),
    }
    kernels = f"{len(real):,} training kernels"
    return Explorer(
        f"Latent space of {prior}, {size}×{size}: drag over the plane, or focus it and use the arrow keys. "
        f"{text} Darker cells hold the codes of more of the {kernels}; the nearest real kernel is the one of "
        "them at the smallest Euclidean distance. Red is positive, blue negative, white zero.",
        names,
        rows,
        json.dumps(data, separators=(",", ":")),
    )


def _plane(codes: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...], str]:
    """Return centre [latent], axes [1 or 2, latent], their names, and a description, of codes [n, latent]."""
    latent = codes.shape[1]
    if latent <= 2:
        names = ("z₁", "z₂")[:latent]
        return torch.zeros(latent), torch.eye(latent), names, "The axes are the dimensions of the code."
    centre = codes.mean(0)
    _, lengths, directions = torch.linalg.svd(codes - centre, full_matrices=False)
    deviations = lengths / max(1, len(codes) - 1) ** 0.5
    # The sign of a singular vector is arbitrary.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    axes = (deviations[:, None] * directions * largest.sign())[:2]
    share = float(deviations[:2].square().sum() / deviations.square().sum())
    text = (
        f"The codes have {latent} dimensions; the axes are the first two principal directions of the codes, "
        f"with {share:.0%} of their variance, in standard deviations from the mean code."
    )
    return centre, axes, ("direction 1", "direction 2"), text


def _density(places: Tensor, rows: int) -> np.ndarray:
    """Return the square root of the number of codes in each cell [rows, SIDE], at most 255."""
    half = REACH * SIDE / (SIDE - 1)
    x = places[:, 0].numpy()
    y = places[:, 1].numpy() if rows > 1 else np.zeros_like(x)
    edges = np.linspace(-half, half, SIDE + 1)
    counts = np.histogram2d(-y, x, bins=(edges if rows > 1 else [-half, half], edges))[0]
    return 255 * np.sqrt(counts / max(1, counts.max()))


def _text(values: Tensor | np.ndarray) -> str:
    return base64.b64encode(np.round(np.asarray(values)).astype(np.uint8).tobytes()).decode()
