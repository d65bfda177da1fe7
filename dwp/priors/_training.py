"""Fitting by gradient descent, as the kinds of prior that need it share it."""

from collections.abc import Callable

import torch
from torch import Tensor

from dwp.nn.seeding import seeded
from dwp.priors.base import Prior
from dwp.training.loop import Rows, Schedule, fit


def trained(
    build: Callable[[Tensor, dict], Prior],
    loss: Callable[[Prior, Tensor], tuple[Tensor, dict]],
    objective: str,
    kernels: Tensor,
    test: Tensor,
    settings: dict,
    **training: object,
) -> tuple[Prior, Rows]:
    """Minimise a loss over kernels and judge the prior by held-out ones each epoch; return it and the rows.

    A `validation_fraction` of the training kernels is set apart, if any is, to choose the epoch
    at which they were likeliest; the held-out ones have no say, so that they judge it fairly.

    Args:
        build: makes the prior of the kernels to train on [n, 1, k, k] and its settings.
        loss: of the prior on a minibatch of kernels, as `training.fit` takes it.
        objective: the metric of `Prior.evaluate` to choose by; higher is better.
        kernels: to train on, [n, 1, k, k]; `test` are the held-out ones [m, 1, k, k].
        settings: those of the prior, with `schedule` and maybe `validation_fraction`.
        training: as for `Prior.fit`.
    """
    settings = dict(settings)
    schedule = Schedule(**settings.pop("schedule"))
    fraction = settings.pop("validation_fraction", 0.0)
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
