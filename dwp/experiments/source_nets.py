"""Source networks, trained on the source data set to collect their kernels."""

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwp.nn.spec import Network
from dwp.settings import setting
from dwp.training.schedule import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dwp.data.dataset import Dataset
    from dwp.training.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

# A net that diverges is trained again with a seed that is higher by this number, and then once more.
NEXT_SEED = 1_000_000
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """Settings of the source networks."""

    nets: int = setting("number of source networks, with seeds from 0", ge=1, counts=True)
    shard: int = setting("networks per job", ge=1, counts=True)
    network: Network = setting("architecture of the source networks")
    l2: float = setting(
        "weight of the squared norm of all convolution kernels in the loss; empties unused kernels",
        ge=0,
    )
    schedule: Schedule = setting("training schedule of every source network")


def train_net(
    net: int,
    dataset: "Dataset",
    settings: SourceSettings,
    device: "torch.device",
    checkpoint: "Checkpoint | None" = None,
) -> "tuple[dict[str, Tensor], dict[str, float]]":
    """Train source network number `net`, with another seed if it diverges.

    The seed is the first of `net`, `net` plus one million and `net` plus two million with which
    training does not diverge.

    Returns:
        The state dict of the network, and a row {seed, accuracy, nll, seconds}, see `train`.

    Raises:
        FloatingPointError: training diverged with all of these seeds.
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


def train(
    seed: int,
    dataset: "Dataset",
    settings: SourceSettings,
    device: "torch.device",
    checkpoint: "Checkpoint | None" = None,
) -> "tuple[dict[str, Tensor], dict[str, float]]":
    """Train one source network (paper, appendix F: cross-entropy + l2·Σ‖w‖² over the convolutions).

    Args:
        seed: seed of initialisation and minibatches; the same seed gives the same weights.
        dataset: the source data set.
        settings: only `network`, `l2` and `schedule` are used.
        device: device to train on.
        checkpoint: where to save progress and resume from.

    Returns:
        The state dict on the CPU, and a row {accuracy, nll, seconds}: test accuracy, test NLL in nats
        and run time.

    Raises:
        FloatingPointError: training diverged.
    """
    from dwp import metrics
    from dwp.bayes.layers import predict
    from dwp.bayes.objectives import cross_entropy
    from dwp.initialisation import build_initialised
    from dwp.nn.precision import autocast
    from dwp.training.loop import fit

    began = time.perf_counter()
    model = build_initialised(settings.network, dataset.image_shape, dataset.classes, seed).to(device)
    fit(
        model,
        cross_entropy(model, settings.l2),
        (dataset.images("train", device), dataset.labels("train", device)),
        settings.schedule,
        seed=seed,
        checkpoint=checkpoint,
        label=f"source net {seed}",
    )
    with autocast(device, settings.schedule.precision):
        probabilities = predict(model, dataset.images("test", device), samples=0)[0]
    labels = dataset.labels("test", device)
    row = {
        "accuracy": metrics.accuracy(probabilities, labels),
        "nll": metrics.nll(probabilities, labels),
        "seconds": time.perf_counter() - began,
    }
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, row
