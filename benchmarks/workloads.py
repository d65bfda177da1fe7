"""The workloads: what is trained and evaluated, by the library and by the recipe, from the same weights.

The library's side goes through the functions that the workflow calls.
"""

import functools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import recipe
from benchmarks.options import Options
from dwp import data, load_prior, metrics
from dwp.bayes import layers
from dwp.bayes.objectives import cross_entropy, elbo
from dwp.data.dataset import Dataset
from dwp.errors import InputError
from dwp.initialisation import build_initialised
from dwp.nn import convnet
from dwp.nn.precision import autocast
from dwp.nn.seeding import seeded
from dwp.nn.spec import Conv, Network
from dwp.priors.base import KLEstimator
from dwp.priors.vae import VAE
from dwp.training.loop import fit

HELD_OUT = 1000  # kernels
TEST_BATCH = 500  # of the recipe

build = convnet.build  # replaced where an optimisation is disabled


class Run(NamedTuple):
    """One side of a workload, ready to run."""

    # A training calls its first argument before, after every so many steps, its second, and at the end.
    run: Callable[..., object]
    evaluate: Callable[[], dict[str, float]] = dict  # metrics on held-out data
    amount: float = 1  # units of the workload in a run
    steps: int = 1


class Workload(NamedTuple):
    """Something to run, by the library and by the recipe."""

    title: str
    unit: str
    goal: float  # wanted ratio of the library's rate to the recipe's
    ours: Callable[[Options], Run]
    recipe: Callable[[Options], Run]


# Inputs


@functools.cache
def dataset(name: str, root: str | None, train: int, test: int) -> Dataset:
    """Return a data set with at most so many images."""
    root = root and os.path.expanduser(root)
    if root is not None and not Path(root, name).is_dir():
        raise InputError(f"data_root: {root} has no folder {name}; give both notmnist and mnist")
    options = {"train": train, "test": max(10, test)} if root is None else None
    found = data.build(name, data_root=root, downloads="results/downloads", options=options)
    first = [tensor[:train] for tensor in (found.train_images, found.train_labels)]
    return Dataset(name, *first, *(tensor[:test] for tensor in (found.test_images, found.test_labels)))


def source(o: Options) -> Dataset:
    """Return the source data set: notMNIST, or glyphs."""
    name = "notmnist" if o.data_root else "glyphs"
    return dataset(name, o.data_root, o.source_images, min(1000, o.target_images))


def target(o: Options) -> Dataset:
    """Return the target data set: MNIST, or other glyphs."""
    name, train = ("mnist", 60_000) if o.data_root else ("glyphs-k-t", 2 * o.target_examples + 100)
    return dataset(name, o.data_root, train, o.target_images)


def kernels(o: Options, size: int) -> tuple[Tensor, Tensor]:
    """Return training and held-out kernels [n, 1, k, k], drawn from a prior of the collection."""
    prior = load_prior(f"{'notmnist' if o.data_root else 'glyphs'}-{size}x{size}")
    n = o.vae_kernels[size == 5]
    drawn = prior.sample(n + HELD_OUT, torch.Generator().manual_seed(o.seed)).to(o.where)
    return drawn[:n], drawn[n:]


def vae(o: Options, size: int) -> VAE:
    """Return a VAE before training."""
    with seeded(o.seed):
        return VAE(size, hidden=o.vae_hidden[size == 5], latent=o.vae_latent[size == 5]).to(o.where)


def recipe_vae_of(prior: VAE) -> recipe.KernelVAE:
    """Return the recipe's VAE with the weights of the library's."""
    theirs = recipe.KernelVAE(prior.kernel_size, prior.settings["hidden"], prior.latent)
    theirs.load_state_dict(prior.state_dict())
    return theirs


def priors(o: Options) -> dict[int, VAE]:
    """Return the VAEs of the few-shot network by kernel size: fitted ones from files, or untrained ones."""
    if not o.target_priors:
        return {size: vae(o, size).requires_grad_(False) for size in (7, 5)}
    found = {prior.kernel_size: prior for prior in map(load_prior, o.target_priors)}
    if set(found) != {5, 7} or not all(isinstance(prior, VAE) for prior in found.values()):
        raise InputError("target_priors: give two VAEs, one over 7×7 and one over 5×5 kernels")
    return found


def network(channels: tuple[int, int]) -> Network:
    """Return the paper's network for grey images of 28×28."""
    sizes = zip(channels, (7, 5), strict=True)
    return Network(layers=tuple(Conv(conv=n, kernel=k, pool=2) for n, k in sizes), batch_norm=False)


def source_network(o: Options) -> nn.Module:
    """Return a source network before training."""
    return build_initialised(network(o.source_net), (1, 28, 28), 10, o.seed, build=build).to(o.where)


def few_shot_network(o: Options) -> nn.Module:
    """Return the Bayesian network before training, its kernels decoder means of the priors."""
    found, described = priors(o), network(o.target_net)
    origins = {layer: found[size] for layer, size in described.layer_sizes().items()}
    plain = build_initialised(described, (1, 28, 28), 10, o.seed, origins=origins, mean=True, build=build)
    return layers.make_bayesian(plain, found, "additive").to(o.where)


def recipe_few_shot_network(o: Options) -> recipe.ConvNet:
    """Return the recipe's Bayesian network with the weights of the library's."""
    model = recipe.ConvNet(*o.target_net, recipe.BayesianConv2d)
    model.load_state_dict(few_shot_network(o).state_dict())
    return model.to(o.where)


def loader(o: Options, images: Tensor, labels: Tensor, batch: int | None = None) -> DataLoader:
    """Return the recipe's batches of images uint8 [n, 1, h, w], shuffled if their size is given."""
    return DataLoader(
        recipe.Images(images, labels), batch or TEST_BATCH, shuffle=bool(batch), num_workers=o.workers
    )


# Both sides of each workload


def ours_training(
    o: Options, what: str, model: nn.Module, loss: Callable, tensors: tuple, evaluate: Callable
) -> Run:
    """Return a training by the library."""
    schedule = o.schedule(what)

    def run(after: Callable[[], dict] | None = None, every: int = 0) -> None:
        fit(model, loss, tensors, schedule, seed=o.seed, evaluate=after, every=every)

    return Run(run, evaluate, units(o, what, len(tensors[0])), schedule.steps)


def recipe_training(
    o: Options, what: str, parameters: list, loss: Callable, batches: DataLoader, evaluate: Callable
) -> Run:
    """Return a training by the recipe."""
    schedule = o.schedule(what)

    def run(after: Callable[[], dict] | None = None, every: int = 0) -> None:
        def each(step: int) -> None:
            if every and (step % every == 0 or step == schedule.steps):
                after()

        torch.manual_seed(o.seed)
        each(0)
        recipe.train(loss, parameters, batches, schedule.steps, schedule.lr, each)

    return Run(run, evaluate, units(o, what, len(batches.dataset)), schedule.steps)


def units(o: Options, what: str, examples: int) -> int:
    """Return the number of examples in all minibatches (the last of an epoch is smaller), or of steps."""
    schedule = o.schedule(what)
    epochs, rest = divmod(schedule.steps, schedule.steps_per_epoch(examples))
    return schedule.steps if what == "target" else epochs * examples + rest * min(schedule.batch, examples)


def ours_source(o: Options) -> Run:
    used, model = source(o), source_network(o)

    def evaluate() -> dict[str, float]:
        with autocast(o.where, o.precision):
            found = layers.predict(model, used.images("test", o.where), samples=0)
        return metrics.summary(found.mean(0), used.test_labels)

    tensors = used.images("train", o.where), used.labels("train", o.where)
    return ours_training(o, "source", model, cross_entropy(model, o.source_l2), tensors, evaluate)


def recipe_source(o: Options) -> Run:
    used, model = source(o), recipe.ConvNet(*o.source_net).to(o.where)
    model.load_state_dict(source_network(o).state_dict())
    test = loader(o, used.test_images, used.test_labels)

    def evaluate() -> dict[str, float]:
        return metrics.summary(recipe.predict(model, test, 0).mean(0), used.test_labels)

    batches = loader(o, used.train_images, used.train_labels, o.source_batch)
    loss = partial(recipe.source_loss, model, o.source_l2)
    return recipe_training(o, "source", [*model.parameters()], loss, batches, evaluate)


def ours_vae(size: int, o: Options) -> Run:
    prior, (train, test) = vae(o, size), kernels(o, size)

    def loss(w: Tensor) -> tuple[Tensor, dict]:
        bound = prior.log_prob(w).mean()
        return -bound, {"train_elbo": bound}

    return ours_training(o, "vae", prior, loss, (train,), lambda: prior.evaluate(test))


def recipe_vae(size: int, o: Options) -> Run:
    prior, (train, test) = recipe_vae_of(vae(o, size)).to(o.where), kernels(o, size)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        with seeded(0, o.where):
            return {"elbo": prior.elbo(test).mean().item()}

    batches = DataLoader(TensorDataset(train.cpu()), o.vae_batch, shuffle=True, num_workers=o.workers)
    loss = partial(recipe.vae_loss, prior)
    return recipe_training(o, "vae", [*prior.parameters()], loss, batches, evaluate)


def ours_few_shot(subset: bool, o: Options) -> Run:
    model, used = few_shot_network(o), target(o)
    chosen = data.few_shot(used.train_labels, o.target_examples, o.seed)
    tensors = tuple(tensor("train")[chosen].to(o.where) for tensor in (used.images, used.labels))
    loss = elbo(model, len(chosen), KLEstimator(o.target_subset if subset else None))
    trained = nn.ModuleList([model, *layers.reverse_models(model)])
    return ours_training(o, "target", trained, loss, tensors, ours_evaluation(o, model).run)


def recipe_few_shot(o: Options) -> Run:
    model, used = recipe_few_shot_network(o), target(o)
    chosen = data.few_shot(used.train_labels, o.target_examples, o.seed)
    batches = loader(o, used.train_images[chosen], used.train_labels[chosen], o.target_batch or len(chosen))
    found = {size: recipe_vae_of(prior).to(o.where) for size, prior in priors(o).items()}
    trained = [*model.parameters()]
    for prior in found.values():
        # The paper trains the reverse model r(z|w) together with the posterior.
        trained += prior.requires_grad_(False).encoder.requires_grad_(True).parameters()
    loss = partial(recipe.few_shot_loss, model, found, len(chosen))
    return recipe_training(o, "target", trained, loss, batches, recipe_evaluation(o, model).run)


def ours_evaluation(o: Options, model: nn.Module | None = None) -> Run:
    model, used = model or few_shot_network(o), target(o)
    images = used.images("test", o.where)

    def run() -> dict[str, float]:
        with autocast(o.where, o.precision):
            mean, members = (layers.predict(model, images, n).mean(0) for n in (0, o.target_members))
        mean_accuracy = metrics.accuracy(mean, used.test_labels)
        return {**metrics.summary(members, used.test_labels), "mean_accuracy": mean_accuracy}

    return Run(run)


def recipe_evaluation(o: Options, model: nn.Module | None = None) -> Run:
    model, used = model or recipe_few_shot_network(o), target(o)
    batches = loader(o, used.test_images, used.test_labels)

    def run() -> dict[str, float]:
        # The published code reports the accuracy of the mean, of one sample and of the ensemble.
        predictions = [recipe.predict(model, batches, n).mean(0) for n in (0, 1, o.target_members)]
        mean_accuracy = metrics.accuracy(predictions[0], used.test_labels)
        return {**metrics.summary(predictions[2], used.test_labels), "mean_accuracy": mean_accuracy}

    return Run(run)


STEP, SUBSET = partial(ours_few_shot, False), partial(ours_few_shot, True)
WORKLOADS = {
    "source": Workload("source network", "images/s", 4, ours_source, recipe_source),
    "vae7": Workload("VAE 7×7", "kernels/s", 5, partial(ours_vae, 7), partial(recipe_vae, 7)),
    "vae5": Workload("VAE 5×5", "kernels/s", 5, partial(ours_vae, 5), partial(recipe_vae, 5)),
    "step": Workload("few-shot step, all kernels", "steps/s", 5, STEP, recipe_few_shot),
    "subset": Workload("few-shot step, dwp with a subset of kernels", "steps/s", 20, SUBSET, recipe_few_shot),
    "evaluation": Workload("evaluation of the ensemble", "1/s", 10, ours_evaluation, recipe_evaluation),
}
