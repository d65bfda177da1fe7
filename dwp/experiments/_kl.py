"""What the experiments on KL(q || prior) share: a network as it starts, made Bayesian, not trained.

A method is {posterior, prior, init}: the Gaussian q around every kernel, the prior that the
kernel pays for, and where kernels start (the learned ones, from an empirical prior). The
results are nats per kernel for each kernel size, so the network only says how many kernels
of each size there are. It is float32 whatever the configuration's precision.
"""

import math
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import torch

from dwp.bayes import posteriors
from dwp.experiments import methods
from dwp.experiments.base import Task
from dwp.initialisation import RULES
from dwp.nn.convnet import convolutions
from dwp.nn.spec import Network, size_label
from dwp.pipeline.typed import parse
from dwp.priors.base import KLEstimator

OPTIONS = {
    "std": {"type": "number", "exclusiveMinimum": 0, "description": "a number above 0"},
    "posterior_samples": {"$ref": "#/$defs/count"},
}
METHOD = {
    "posterior": {
        "enum": ["additive", "truncated_alpha"],
        "description": "additive or truncated_alpha",
    },
    "prior": methods.NAMES,
}
REQUIRED = ("posterior", "prior")
ONE_NETWORK = {"init": methods.init(tuple(RULES))}
"""For METHOD, where all seeds are of one network: then there is no source network for each."""


def counts(*, description: str) -> dict:
    """Return the JSON schema of a list of whole numbers from 1."""
    return {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"$ref": "#/$defs/count"},
        "description": description,
    }


@torch.no_grad()
def estimate(task: Task, estimator: KLEstimator, *, network: int, scale: float = 1.0) -> list[dict]:
    """Return one estimate of KL(q || prior), a row for each kernel size: `kl_7x7`, in nats per kernel.

    Args:
        task: its seed is that of the noise, the same for all settings and priors.
        estimator: how to estimate; priors with a closed form ignore it.
        network: seed of the kernels that q is around.
        scale: factor on them, which leaves the noise of an additive posterior as it is.
    """
    model, chosen = replace(task, seed=network).start(), task.by_layer(task.method["prior"])
    copies = {id(prior): deepcopy(prior).to(task.device) for prior in chosen.values()}
    sizes = parse(Network, task.settings["network"]).layer_sizes()
    nats, kernels = Counter(), Counter()
    with torch.random.fork_rng([task.device] if task.device.type == "cuda" else []):
        # Apart from the seeds of networks, whose kernels are drawn with the same generator.
        torch.manual_seed(1_000_003 * (task.seed + 1))
        for name, layer in convolutions(model):
            prior = copies[id(chosen[name])]
            posterior = posteriors.build(task.method["posterior"], layer.weight * scale, prior)
            if isinstance(posterior, posteriors.Additive):
                posterior.log_variance.fill_(2 * math.log(task.settings["std"]))
            nats[sizes[name]] += posterior.kl(estimator).item()
            kernels[sizes[name]] += layer.weight.shape[:2].numel()
    return [
        {"step": 0, "metric": f"kl_{size_label(size)}", "value": nats[size] / kernels[size]} for size in nats
    ]
