"""The training loop `fit` for source networks, priors, Bayesian and ordinary networks.

It handles the schedule, precision, checkpoints, progress and the check for non-finite values.
Data are tensors on the device; there is no DataLoader.
"""

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dwp.nn.precision import autocast
from dwp.nn.seeding import derived_seed, rng_state, seeded, set_rng_state
from dwp.training import signals
from dwp.training.checkpoints import Checkpoint
from dwp.training.schedule import Schedule

logger = logging.getLogger(__name__)

Terms = dict[str, Tensor]
Rows = list[dict]

SECONDS_BETWEEN_LOG_LINES = 15.0


def fit(
    model: nn.Module,
    loss: Callable[..., tuple[Tensor, Terms]],
    data: tuple[Tensor, ...],
    schedule: Schedule,
    *,
    seed: int,
    evaluate: Callable[[], dict[str, float]] | None = None,
    every: int = 0,
    best: str | None = None,
    checkpoint: Checkpoint | None = None,
    label: str = "fit",
) -> Rows:
    """Minimise `loss` over the parameters of `model` that require gradients, by Adam.

    Args:
        model: trained in place; it is on the device of `data`.
        loss: takes a minibatch (the same examples of each tensor in `data`) and returns the scalar
            to minimise and its named terms, which are recorded at every evaluation.
        data: tensors of equal length, drawn without replacement in each epoch.
        schedule: steps, batch, learning rate, precision.
        seed: seed of the minibatches and of all noise drawn while training; the state of the global
            generators is restored.
        evaluate: returns metrics, recorded after every `every` steps, after the last, and, if
            `every` > 0, before the first.
        every: steps between evaluations; 0: only after the last.
        best: a metric of `evaluate`; the final parameters are those of the evaluation at which it
            was highest. None: those of the last step.
        checkpoint: where to save progress and resume from; None disables checkpoints. The caller
            removes it after the last step.
        label: name of this training in logs, progress bars and errors.

    Returns:
        Rows {step, metric, value}, ordered by step.

    Raises:
        FloatingPointError: a term is not finite; the message names step, term and seed.
        Stopped: on SIGTERM (see `dwp.training.signals`), after the current step is finished and saved.
    """
    examples = len(data[0])
    total = schedule.total_steps(examples)
    device = data[0].device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=schedule.lr, fused=device.type in ("cpu", "cuda"))
    rows: Rows = []
    start = 0
    kept: dict = {}

    def report(step: int, metrics: dict[str, float]) -> None:
        nonlocal kept
        _record(rows, step, metrics)
        if best in metrics and metrics[best] > kept.get("value", -math.inf):
            copy = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            kept = {"step": step, "value": metrics[best], "model": copy}

    def state(done: int) -> dict:
        return {
            "step": done,
            "rows": rows,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "kept": kept,
            "rng": rng_state(device),
        }

    with seeded(seed, device), signals.deferred(label):
        if checkpoint and (saved := checkpoint.load()):
            start = saved["step"]
            rows = saved["rows"]
            kept = saved["kept"]
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            set_rng_state(saved["rng"], device)
            logger.info("%s: resumed at step %d of %d", label, start, total)
        elif evaluate and every:
            report(0, evaluate())
        progress = Progress(label, start, total)
        for step in range(start, total):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, total)
            batch = _minibatch(data, schedule.batch, seed, step)
            with autocast(device, schedule.precision):
                value, terms = loss(*batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            done = step + 1
            reporting = done == total or (every and done % every == 0)
            if device.type == "cpu" or reporting or done % 100 == 0:
                terms = {name: term.detach() for name, term in terms.items()}
                _check_finite({**terms, "loss": value.detach()}, label, step, seed)
            if reporting:
                _record(rows, done, {name: float(term) for name, term in terms.items()})
                if evaluate:
                    report(done, evaluate())
            progress.update(done)
            if checkpoint and (done == total or checkpoint.due() or signals.requested()):
                checkpoint.save(state(done))
            if signals.requested():
                break
        progress.close()
    if kept:
        model.load_state_dict(kept["model"])
        logger.info("%s: best %s, %.6g, at step %d", label, best, kept["value"], kept["step"])
    return rows


class Progress:
    """Rate and remaining time, in the log and, if tqdm is installed, in a progress bar on a terminal."""

    def __init__(self, label: str, start: int, total: int) -> None:
        self.label, self.start, self.total = label, start, total
        self._bar = _bar(desc=label, initial=start, total=total, unit="step", leave=False, disable=None)
        self._began = self._logged = time.monotonic()

    def update(self, done: int) -> None:
        """Report that `done` steps are finished."""
        if self._bar is not None:
            self._bar.update(1)
        now = time.monotonic()
        if now - self._logged >= SECONDS_BETWEEN_LOG_LINES or done == self.total:
            self._logged = now
            rate = (done - self.start) / max(now - self._began, 1e-9)
            left = (self.total - done) / rate
            logger.info(
                "%s: step %d of %d, %.1f steps/s, %.0f s left", self.label, done, self.total, rate, left
            )

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _bar(**options: Any) -> Any:
    """Return a tqdm bar, or None if tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(**options)


def _record(rows: Rows, step: int, metrics: dict[str, float]) -> None:
    rows.extend({"step": step, "metric": name, "value": value} for name, value in metrics.items())


def _check_finite(terms: Terms, label: str, step: int, seed: int) -> None:
    for name, term in terms.items():
        if not math.isfinite(term):
            raise FloatingPointError(
                f"{label}: {name} is {float(term)} at step {step} with seed {seed}; "
                "lower the learning rate, or use precision: float32"
            )


def _minibatch(data: tuple[Tensor, ...], batch: int | None, seed: int, step: int) -> tuple[Tensor, ...]:
    examples = len(data[0])
    if batch is None or batch >= examples:
        return data
    epoch, index = divmod(step, math.ceil(examples / batch))
    chosen = _permutation(examples, seed, epoch, data[0].device)[index * batch : (index + 1) * batch]
    return tuple(tensor[chosen] for tensor in data)


@functools.lru_cache(maxsize=1)
def _permutation(examples: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    # A function of seed and epoch only, so that a resumed run sees the same minibatches. The last
    # result is cached, since every step of an epoch needs it, and copied to the device once.
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(examples, generator=generator).to(device)
