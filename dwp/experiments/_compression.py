"""Compression: training, pruning and measurement of the networks of one task.

A task's settings and method are those of `compression`, which imports this module when it runs.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dwp import metrics
from dwp.bayes import layers
from dwp.bayes.bayesian_layer import BayesianLayer
from dwp.bayes.objectives import Loss, cross_entropy, elbo
from dwp.bayes.posteriors import Factorised
from dwp.bayes.prior_choice import Default
from dwp.compression import files
from dwp.compression.masks import log_dropout, named_layers
from dwp.compression.shrinking import shrink
from dwp.experiments._pruning import Warmup, thresholds
from dwp.experiments.task import Task
from dwp.nn.noise import evaluating
from dwp.nn.precision import at_least_float32, autocast
from dwp.priors.ard import ARD
from dwp.priors.hierarchical_ard import HierarchicalARD
from dwp.priors.log_uniform import LogUniform

CHECKED = 5000
"""Training examples on which thresholds are compared."""
BATCH, REPEATS = 256, 20
"""Images of a timed prediction, and its repetitions."""

_LINEAR: dict[str, Callable[[], Default]] = {
    "standard_normal": lambda: "standard_normal",
    "log_uniform": lambda: LogUniform(1, "molchanov"),
    "ard": lambda: ARD(1),
    "hierarchical_ard": lambda: HierarchicalARD(1, shape=0.5),
}


class Point(NamedTuple):
    """A pruned network, and the threshold of the log dropout rates that it is pruned by."""

    threshold: float
    network: nn.Module
    compression: float
    accuracy: float
    error: float


def run(task: Task[Any, Any]) -> list[dict]:
    """Train and prune one network; return rows.

    Those of `compression.run` by step. After the last, for the pruned network: error on the test images,
    with low_precision_error; compression, the number of weights before relative to those that are not zero,
    and low_precision_compression, the same in bits; inputs, outputs and bits of each layer (`part`); file in
    bytes; time and dense_time if measured. For Bayesian methods also threshold, and curve_error and
    curve_compression of each threshold (`part`).
    """
    settings, method, device = task.settings, task.method, task.device
    data = task.training_examples(int(task.setting))
    test, labels = task.dataset.images("test", device), task.dataset.labels("test", device)
    model = task.build_initialised()
    dense = copy.deepcopy(model)
    model, trained, loss = _prepared(task, model, len(data[0]))

    def evaluate() -> dict[str, float]:
        with autocast(device, settings.schedule.precision):
            probabilities = layers.predict(model, test, samples=0)[0]
        return {
            "accuracy": metrics.accuracy(probabilities, labels),
            "nll": metrics.nll(probabilities, labels),
            **{f"first_layer/{part}": value for part, value in _first_layer(task, model)},
        }

    rows = []
    for row in task.fit(trained, loss, data, evaluate):
        name, _, part = row["metric"].partition("/")
        rows.append({**row, "metric": name, **({"part": part} if part else {})})
    last = rows[-1]["step"]

    def record(metric: str, value: float, part: str = "") -> None:
        rows.append({"step": last, "metric": metric, "value": float(value), "part": part})

    record("unpruned_error", _error(model, test, labels))
    total = sum(layer.weight.numel() for _, layer in _weighted(dense))
    record("weights", total)
    if method.is_bayesian:
        small = _prune(task, model, total, data, (test, labels), record)
    else:
        small = model
        record("error", _error(model, test, labels))
        record("compression", 1)
        record("low_precision_compression", 1)
        record("low_precision_error", _error(model, test, labels))
        record("file", 4 * sum(tensor.numel() for tensor in dense.state_dict().values()))
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            record("outputs", int(layer.weight.flatten(1).any(1).sum()), name)
            record("inputs", int(layer.weight.transpose(0, 1).flatten(1).any(1).sum()), name)
    if settings.measure_time:
        record("time", _milliseconds(small, test))
        record("dense_time", _milliseconds(dense, test))
    return rows


def _prepared(task: Task[Any, Any], model: nn.Module, examples: int) -> tuple[nn.Module, nn.Module, Loss]:
    """Return the network before training, all that is trained, and the loss."""
    method, settings = task.method, task.settings
    if not method.is_bayesian:
        return model, model, cross_entropy(model)
    first = _weighted(model)[0][0]
    layers.make_bayesian(
        model,
        task.priors_by_layer(method.prior),
        method.posterior,
        default=_LINEAR[method.linear](),
        scales=method.scales,
        largest_variance=method.largest_variance and {first: method.largest_variance},
    )
    model.to(task.device)
    steps = round(settings.warmup * settings.schedule.total_steps(examples))
    warmup = Warmup(steps, method.kl_weight).to(task.device)
    bound = elbo(model, examples, weight=warmup.weight)

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        warmup.advance()
        return bound(images, labels)

    return model, nn.ModuleList([model, warmup]), loss


def _prune(
    task: Task[Any, Any],
    model: nn.Module,
    total: int,
    data: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    record: Callable[..., None],
) -> nn.Module:
    """Choose a threshold on training examples, and return the network pruned by it; record its metrics.

    `total` is the number of weights before pruning.
    """
    checked = (data[0][:CHECKED], data[1][:CHECKED])
    points = [_point(task, model, total, value, checked, test) for value in thresholds(_rates(model))]
    for index, point in enumerate(points):
        record("curve_error", point.error, f"{index:02d}")
        record("curve_compression", point.compression, f"{index:02d}")
    least = 1 - _error(model, *checked) / 100 - task.settings.tolerance
    # The mildest threshold, if none is within the tolerance.
    within = [point for point in points if point.accuracy >= least] or points[:1]
    chosen = max(within, key=lambda point: point.compression)
    small = chosen.network
    record("threshold", chosen.threshold)
    record("error", chosen.error)
    record("compression", chosen.compression)
    bits = 0
    for name, one in files.precisions(small).items():
        record("bits", one.bits or 32, name)
        bits += (one.bits or 32) * _count(small.get_submodule(name))
    record("low_precision_compression", 32 * total / max(bits, 1))
    with tempfile.TemporaryDirectory() as folder:
        record("file", files.save(small, Path(folder) / "network.safetensors"))
    rounded = copy.deepcopy(small)
    files.round_(rounded)
    record("low_precision_error", _error(rounded, *test))
    return small


def _point(
    task: Task[Any, Any],
    model: nn.Module,
    total: int,
    threshold: float,
    checked: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> Point:
    options = {"threshold": threshold} if task.method.scales else {"weight_threshold": threshold}
    network = shrink(model, **options)
    return Point(
        threshold,
        network,
        total / max(_count(network), 1),
        1 - _error(network, *checked) / 100,
        _error(network, *test),
    )


@torch.no_grad()
def _rates(model: nn.Module) -> Iterator[Tensor]:
    """Yield the log dropout rates of all groups, or log(variance / mean²) of all weights."""
    if groups := log_dropout(model):
        yield from groups.values()
        return
    for layer in named_layers(model).values():
        assert isinstance(layer.posterior, Factorised)
        mean, log_variance = map(at_least_float32, layer.posterior.moments())
        yield log_variance - (mean.square() + 1e-16).log()


def _first_layer(task: Task[Any, Any], model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield place and value of each weight of a first convolution, or each input of a linear layer."""
    with torch.no_grad():
        layer = _weighted(model)[0][1]
        weight = layer.draw(sampled=False) if isinstance(layer, BayesianLayer) else layer.weight
        if weight.ndim == 2:
            weight = weight.norm(dim=0).view(task.dataset.image_shape)
    places = torch.cartesian_prod(*map(torch.arange, weight.shape)).tolist()
    for place, value in zip(places, weight.flatten().tolist(), strict=True):
        yield "-".join(map(str, place)), value


def _weighted(model: nn.Module) -> list[tuple[str, Any]]:
    kinds = (nn.Conv2d, nn.Linear, BayesianLayer)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _count(network: nn.Module) -> int:
    """Return the number of weights of an ordinary network that are not zero, without biases."""
    return sum(
        int(module.weight.count_nonzero())
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    )


def _error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the error of the network, or of its posterior mean, in percent."""
    return 100 * (1 - metrics.accuracy(layers.predict(model, images, samples=0)[0], labels))


@torch.no_grad()
def _milliseconds(network: nn.Module, images: Tensor) -> float:
    """Return the median time of a prediction for 1,000 images."""
    batch, seconds = images[:BATCH], []
    with evaluating(network):
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            network(batch).sum().item()  # waits for the device
            seconds.append(time.perf_counter() - start)
    # The first one warms up.
    return 1e6 * sorted(seconds[1:])[REPEATS // 2] / len(batch)
