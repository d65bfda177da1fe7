"""Source networks: trained on the source data set so that their kernels can be collected."""

import logging
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dwp import metrics
from dwp.bayes.layers import predict
from dwp.bayes.objectives import cross_entropy
from dwp.data.dataset import Dataset
from dwp.initialisation import start
from dwp.nn.precision import autocast
from dwp.training.checkpoints import Checkpoint
from dwp.training.loop import Schedule, fit

logger = logging.getLogger(__name__)

# A net that diverges is trained again from the seed that is so much higher, and then once more.
NEXT_SEED = 1_000_000
ATTEMPTS = 3


def train_net(
    net: int, dataset: Dataset, settings: dict, device: torch.device, checkpoint: Checkpoint | None = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train a source network, as `train` does; one that diverges is trained again from another seed.

    Its seed is its number, or, if it diverges, its number plus a million or plus two
    million, the first that does not.

    Returns:
        Its weights, and a row {seed, accuracy, nll, seconds}.

    Raises:
        FloatingPointError: it diverged from all of these seeds.
    """
    for seed in range(net, net + ATTEMPTS * NEXT_SEED, NEXT_SEED):
        try:
            state, row = train(seed, dataset, settings, device, checkpoint and checkpoint.of(seed))
        except FloatingPointError as error:
            logger.warning("net %d diverged: %s", net, error)
            last = error
        else:
            return state, {"seed": seed, **row}
    raise FloatingPointError(f"net {net} diverged from {ATTEMPTS} seeds, the last time: {last}")


def load_nets(paths: Iterable[str | Path], wanted: Collection[int]) -> dict[int, dict[str, Tensor]]:
    """Return the state dicts of the wanted ones of the networks in some shards, by number."""
    nets: dict[int, dict[str, Tensor]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                net, _, name = key.partition("/")
                if int(net) in wanted:
                    nets.setdefault(int(net), {})[name] = file.get_tensor(key)
    return nets


def train(
    seed: int, dataset: Dataset, settings: dict, device: torch.device, checkpoint: Checkpoint | None = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train one source network (paper, appendix F: cross-entropy + l2·Σ‖w‖² over the convolutions).

    Args:
        seed: of initialisation, minibatches and nothing else; the same seed gives the same weights.
        dataset: the source data set.
        settings: `network`, `l2` and `schedule`.
        device: where to train.
        checkpoint: where to resume from.

    Returns:
        The state dict on the CPU, and its test accuracy and NLL (nats) with the seconds it took.

    Raises:
        FloatingPointError: it diverged.
    """
    began = time.perf_counter()
    schedule = Schedule(**settings["schedule"])
    model = start(settings["network"], dataset.image_shape, dataset.classes, seed).to(device)
    fit(
        model,
        cross_entropy(model, settings["l2"]),
        (dataset.images("train", device), dataset.labels("train", device)),
        schedule,
        seed=seed,
        checkpoint=checkpoint,
        label=f"source net {seed}",
    )
    with autocast(device, schedule.precision):
        probabilities = predict(model, dataset.images("test", device), samples=0)[0]
    labels = dataset.labels("test", device)
    row = {
        "accuracy": metrics.accuracy(probabilities, labels),
        "nll": metrics.nll(probabilities, labels),
        "seconds": time.perf_counter() - began,
    }
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, row
