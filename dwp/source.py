"""Source networks: trained on the source data set so that their kernels can be collected."""

import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from dwp import metrics
from dwp.bayes import predict
from dwp.checkpoints import Checkpoint
from dwp.data.dataset import Dataset
from dwp.devices import autocast
from dwp.init import start
from dwp.objectives import cross_entropy
from dwp.shards import Finished
from dwp.training import Schedule, fit


def train_shard(
    seeds: Iterable[int],
    dataset: Dataset,
    settings: dict,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    finished: Iterable[Finished] = (),
) -> tuple[dict[str, Tensor], list[dict]]:
    """Train several source networks, each as `train` does whatever the others are.

    Those that other shards have `finished` are read, not trained.

    Returns:
        All weights, named '<seed>/<layer>.weight', and a row {net, accuracy, nll, seconds} for each net.
    """
    weights, rows = {}, []
    there = {seed: net for shard in finished for seed, net in _read(shard)}
    for seed in seeds:
        if seed in there:
            state, row = there[seed]
        else:
            state, row = train(seed, dataset, settings, device, checkpoint and checkpoint.of(seed))
        weights |= {f"{seed}/{name}": tensor for name, tensor in state.items()}
        rows.append({"net": seed, **row})
    return weights, rows


def load_nets(paths: Iterable[str | Path], seeds: Collection[int]) -> dict[int, dict[str, Tensor]]:
    """Return the state dicts of those networks of some shards that have one of the seeds, by seed."""
    nets: dict[int, dict[str, Tensor]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                seed, _, name = key.partition("/")
                if int(seed) in seeds:
                    nets.setdefault(int(seed), {})[name] = file.get_tensor(key)
    return nets


def _read(shard: Finished) -> Iterator[tuple[int, tuple[dict[str, Tensor], dict[str, float]]]]:
    # Pandas' quick parser may be wrong in the last digit.
    table = pd.read_csv(shard.files[".csv"], float_precision="round_trip").set_index("net")
    for seed, state in load_nets([shard.files[".safetensors"]], shard.numbers).items():
        yield seed, (state, table.loc[seed].to_dict())


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
