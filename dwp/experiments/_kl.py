"""KL(q || prior) around the initial kernels of a network, without training.

The network only determines the number of kernels of each size. Computations are in float32,
regardless of the configured precision.
"""

import math
from collections import defaultdict
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dwp.bayes import posteriors
from dwp.experiments.task import Task
from dwp.nn.convnet import convolutions
from dwp.nn.seeding import derived_seed, seeded
from dwp.nn.spec import size_label
from dwp.priors.base import KLEstimator

if TYPE_CHECKING:
    from dwp.experiments._kl_settings import Method, Settings


@torch.no_grad()
def estimate(
    task: "Task[Settings, Method]", estimator: KLEstimator, *, network: int, scale: float = 1.0
) -> list[dict]:
    """Return one estimate of KL(q || prior), a row for each kernel size (`part`), in nats per kernel.

    Args:
        task: its seed is the seed of the noise, which is the same for all settings and priors.
        estimator: how to estimate the KL; priors with a closed form ignore it.
        network: seed of the kernels that q is centred on.
        scale: factor on the kernels; it does not change the noise of an additive posterior.
    """
    model, chosen = replace(task, seed=network).build_initialised(), task.priors_by_layer(task.method.prior)
    copies = {id(prior): deepcopy(prior).to(task.device) for prior in chosen.values() if prior}
    sizes = task.settings.network.layer_sizes()
    nats: dict[int, float] = defaultdict(float)
    kernels: dict[int, int] = defaultdict(int)
    # Distinct from the seeds of networks, whose kernels are drawn with the same generator.
    with seeded(derived_seed(task.seed + 1, 0), task.device):
        for name, layer in convolutions(model):
            prior = copies[id(chosen[name])]
            posterior = posteriors.build(task.method.posterior, layer.weight * scale, prior)
            if isinstance(posterior, posteriors.Additive):
                posterior.log_variance.fill_(2 * math.log(task.settings.std))
            nats[sizes[name]] += posterior.kl(estimator).item()
            kernels[sizes[name]] += layer.weight.shape[:2].numel()
    return [
        {"step": 0, "metric": "kl", "part": size_label(size), "value": nats[size] / kernels[size]}
        for size in nats
    ]
