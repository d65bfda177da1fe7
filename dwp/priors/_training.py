"""Fitting a prior by gradient descent."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from dwp.nn.seeding import seeded
from dwp.priors.base import Prior
from dwp.priors.settings import TrainedPriorSettings
from dwp.training.loop import Rows, fit
from dwp.training.schedule import Schedule

P = TypeVar("P", bound=Prior)


def trained(
    build: Callable[[Tensor, dict], P],
    loss: Callable[[P, Tensor], tuple[Tensor, dict]],
    objective: str,
    kernels: Tensor,
    test: Tensor,
    settings: dict,
    **training: Any,
) -> tuple[P, Rows]:
    """Minimise a loss over kernels and evaluate on held-out ones each epoch; return the prior and the rows.

    With a `validation_fraction`, that part of the training kernels is set apart to choose the epoch.
    The held-out kernels are not used for this, so that their score is unbiased.

    Args:
        build: builds the prior from the training kernels [n, 1, k, k] and its settings.
        loss: takes the prior and a minibatch; returns the loss and its terms, see `training.fit`.
        objective: the metric of `Prior.evaluate` that chooses the epoch; higher is better.
        kernels: training kernels [n, 1, k, k].
        test: held-out kernels [m, 1, k, k].
        settings: settings of the prior, with `schedule` and optionally `validation_fraction`.
        training: as for `Prior.fit`.
    """
    settings = dict(settings)
    schedule = Schedule(**settings.pop("schedule"))
    fraction = settings.pop("validation_fraction", TrainedPriorSettings.validation_fraction)
    order = torch.randperm(len(kernels), generator=torch.Generator().manual_seed(training["seed"]))
    apart = min(max(1, round(fraction * len(kernels))), len(kernels) - 1) if fraction else 0
    validation, kernels = kernels[order[:apart]], kernels[order[apart:].sort().values]
    with seeded(training["seed"]):
        prior = build(kernels, settings).to(kernels)

    def evaluate() -> dict[str, float]:
        metrics = prior.evaluate(test)
        if apart:
            metrics[f"validation_{objective}"] = prior.evaluate(validation)[objective]
        return metrics

    rows = fit(
        prior,
        lambda w: loss(prior, w),
        (kernels,),
        schedule,
        evaluate=evaluate,
        every=schedule.steps_per_epoch(len(kernels)),
        best=f"validation_{objective}" if apart else None,
        **{"label": prior.kind, **training},
    )
    return prior.requires_grad_(False), rows
