"""Measurements of fitted priors: samples, norms, and the step that training kept."""

import numpy as np
import pandas as pd
import torch

from dwp.errors import InputError
from dwp.kernels.collection import norms
from dwp.priors.base import Prior


def kept_step(history: pd.DataFrame) -> float:
    """Return the step of the kept model: the best on validation kernels, or the last; NaN if none."""
    validation = history[history["metric"].str.startswith("validation_")]
    return history["step"].max() if validation.empty else history["step"][validation["value"].idxmax()]


def draw(prior: Prior, n: int, *, mean: bool = False) -> torch.Tensor | None:
    """Draw n kernels [n, 1, k, k] with a fixed seed; None if the prior cannot be sampled from."""
    try:
        return prior.sample(n, torch.Generator().manual_seed(0), mean=mean)
    except InputError:
        return None


def median_norm(w: torch.Tensor | None) -> float:
    """Return the median Euclidean norm of kernels [n, 1, k, k]; NaN if `w` is None."""
    return float("nan") if w is None else float(np.median(norms(w.cpu().numpy())))
