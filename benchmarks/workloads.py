"""The workloads: what is trained and evaluated, by the library and by the recipe, from the same weights.

The library's side goes through the functions that the workflow calls.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import inputs, recipe
from benchmarks.options import Options
from dwp import metrics
from dwp.bayes import layers
from dwp.bayes.objectives import cross_entropy, elbo
from dwp.nn.precision import autocast
from dwp.nn.seeding import seeded
from dwp.priors.base import KLEstimator
from dwp.training.loop import fit
from dwp.training.schedule import Schedule


class Run(NamedTuple):
    """One side of a workload, ready to run."""

    run: Callable[..., object]
    """Runs it. A training calls its first argument before and after every so many steps, its second."""
    evaluate: Callable[[], dict[str, float]] = dict
    """Returns metrics on held-out data."""
    amount: float = 1
    """Units of the workload in a run."""
    steps: int = 1
    """Steps of a run."""


@dataclass(frozen=True)
class Workload:
    """Something to run, by the library and by the recipe."""

    title: str
    unit: str
    goal: float
    """Wanted ratio of the library's rate to the recipe's."""
    ours: Callable[[Options], Run]
    recipe: Callable[[Options], Run]


def ours_training(
    options: Options,
    schedule: Schedule,
    model: nn.Module,
    loss: Callable,
    tensors: tuple[Tensor, ...],
    evaluate: Callable[[], dict],
) -> Run:
    """Return a training by the library."""

    def run(after: Callable[[], dict] | None = None, every: int = 0) -> None:
        fit(model, loss, tensors, schedule, seed=options.seed, evaluate=after, every=every)

    return Run(run, evaluate, examples_seen(schedule, len(tensors[0])), schedule.steps)


def recipe_training(
    options: Options,
    schedule: Schedule,
    parameters: Iterable[nn.Parameter],
    loss: Callable,
    loader: DataLoader,
    evaluate: Callable[[], dict],
) -> Run:
    """Return a training by the recipe."""
    parameters = list(parameters)

    def run(after: Callable[[], dict] | None = None, every: int = 0) -> None:
        def each(step: int) -> None:
            if every and step % every == 0:
                after()

        torch.manual_seed(options.seed)
        each(0)
        recipe.train(loss, parameters, loader, schedule.steps, schedule.lr, each)

    return Run(run, evaluate, examples_seen(schedule, len(loader.dataset)), schedule.steps)


def examples_seen(schedule: Schedule, examples: int) -> int:
    """Return the number of examples in all minibatches; the last of an epoch is smaller."""
    batch = min(schedule.batch or examples, examples)
    epochs, rest = divmod(schedule.steps, schedule.steps_per_epoch(examples))
    return epochs * examples + rest * batch


def ours_source(options: Options) -> Run:
    used, model = inputs.source(options), inputs.source_network(options)
    tensors = used.images("train", options.where), used.labels("train", options.where)

    def evaluate() -> dict[str, float]:
        with autocast(options.where, options.precision):
            found = layers.predict(model, used.images("test", options.where), samples=0).mean(0)
        return metrics.summary(found, used.test_labels)

    loss = cross_entropy(model, options.l2)
    return ours_training(options, options.source_schedule, model, loss, tensors, evaluate)


def recipe_source(options: Options) -> Run:
    used, model, schedule = (
        inputs.source(options),
        inputs.recipe_source_network(options),
        options.source_schedule,
    )
    loader = recipe.image_loader(
        used.train_images, used.train_labels, schedule.batch, shuffle=True, workers=options.workers
    )
    test = recipe.image_loader(used.test_images, used.test_labels)
    loss = partial(recipe.source_loss, model, options.l2)

    def evaluate() -> dict[str, float]:
        return metrics.summary(recipe.predict(model, test, 0).mean(0), used.test_labels)

    return recipe_training(options, schedule, model.parameters(), loss, loader, evaluate)


def ours_vae(size: int, options: Options) -> Run:
    prior, (train, test) = inputs.vae(options, size).to(options.where), inputs.kernels(options, size)

    def loss(w: Tensor) -> tuple[Tensor, dict]:
        bound = prior.log_prob(w).mean()
        return -bound, {"train_elbo": bound}

    return ours_training(options, options.vae_schedule, prior, loss, (train,), lambda: prior.evaluate(test))


def recipe_vae(size: int, options: Options) -> Run:
    prior, (train, test) = (
        inputs.copied_vae(inputs.vae(options, size)).to(options.where),
        inputs.kernels(options, size),
    )
    schedule = options.vae_schedule
    loader = recipe.kernel_loader(train, schedule.batch, options.workers)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        with seeded(0, options.where):
            return {"elbo": prior.elbo(test).mean().item()}

    loss = partial(recipe.vae_loss, prior)
    return recipe_training(options, schedule, prior.parameters(), loss, loader, evaluate)


def ours_few_shot(subset: bool, options: Options) -> Run:
    model, used, chosen = inputs.few_shot_network(options), inputs.target(options), inputs.examples(options)
    tensors = [read("train")[chosen].to(options.where) for read in (used.images, used.labels)]
    loss = elbo(model, len(chosen), KLEstimator(options.subset if subset else None))
    trained = nn.ModuleList([model, *layers.reverse_models(model)])
    schedule, evaluate = options.few_shot_schedule, ours_evaluation(options, model).run
    run = ours_training(options, schedule, trained, loss, tuple(tensors), evaluate)
    return run._replace(amount=schedule.steps)


def recipe_few_shot(options: Options) -> Run:
    (model, found), used, chosen = (
        inputs.recipe_few_shot_network(options),
        inputs.target(options),
        inputs.examples(options),
    )
    schedule, evaluate = options.few_shot_schedule, recipe_evaluation(options, model).run
    images, labels = used.train_images[chosen], used.train_labels[chosen]
    loader = recipe.image_loader(
        images, labels, schedule.batch or len(chosen), shuffle=True, workers=options.workers
    )
    trained = itertools.chain(model.parameters(), *map(recipe.reverse_model, found.values()))
    loss = partial(recipe.few_shot_loss, model, found, len(chosen))
    run = recipe_training(options, schedule, trained, loss, loader, evaluate)
    return run._replace(amount=schedule.steps)


def ours_evaluation(options: Options, model: nn.Module | None = None) -> Run:
    model = inputs.few_shot_network(options) if model is None else model
    images, labels = inputs.target(options).images("test", options.where), inputs.target(options).test_labels

    def run() -> dict[str, float]:
        with autocast(options.where, options.precision):
            mean = layers.predict(model, images, samples=0).mean(0)
            members = layers.predict(model, images, options.members).mean(0)
        return {**metrics.summary(members, labels), "mean_accuracy": metrics.accuracy(mean, labels)}

    return Run(run)


def recipe_evaluation(options: Options, model: recipe.ConvNet | None = None) -> Run:
    model = inputs.recipe_few_shot_network(options)[0] if model is None else model
    images, labels = inputs.target(options).test_images, inputs.target(options).test_labels
    loader = recipe.image_loader(images, labels, workers=options.workers)

    def run() -> dict[str, float]:
        # The published code reports the accuracy of the ensemble, of one sample and of the mean.
        members, one, mean = (recipe.predict(model, loader, n).mean(0) for n in (options.members, 1, 0))
        single = {"sample_accuracy": one, "mean_accuracy": mean}
        return metrics.summary(members, labels) | {
            name: metrics.accuracy(found, labels) for name, found in single.items()
        }

    return Run(run)


WORKLOADS = {
    "source": Workload("source network", "images/s", 4, ours_source, recipe_source),
    "vae7": Workload("VAE 7×7", "kernels/s", 5, partial(ours_vae, 7), partial(recipe_vae, 7)),
    "vae5": Workload("VAE 5×5", "kernels/s", 5, partial(ours_vae, 5), partial(recipe_vae, 5)),
    "step": Workload(
        "few-shot step, all kernels", "steps/s", 5, partial(ours_few_shot, False), recipe_few_shot
    ),
    "subset": Workload(
        "few-shot step, dwp with a subset of kernels",
        "steps/s",
        20,
        partial(ours_few_shot, True),
        recipe_few_shot,
    ),
    "evaluation": Workload("evaluation of the ensemble", "1/s", 10, ours_evaluation, recipe_evaluation),
}
