"""KL(q || prior) of the kernels of a network as it starts, made Bayesian, not trained.

The network only says how many kernels of each size there are. It is float32 whatever the
configuration's precision.
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
        task: its seed is that of the noise, the same for all settings and priors.
        estimator: how to estimate; priors with a closed form ignore it.
        network: seed of the kernels that q is around.
        scale: factor on them, which leaves the noise of an additive posterior as it is.
    """
    model, chosen = replace(task, seed=network).build_initialised(), task.priors_by_layer(task.method.prior)
    copies = {id(prior): deepcopy(prior).to(task.device) for prior in chosen.values() if prior}
    sizes = task.settings.network.layer_sizes()
    nats: dict[int, float] = defaultdict(float)
    kernels: dict[int, int] = defaultdict(int)
    # Apart from the seeds of networks, whose kernels are drawn with the same generator.
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
