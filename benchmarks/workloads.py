"""The workloads, each run once by the library and once by the baseline.

The library's side calls the same functions as the workflow's scripts: `training.fit` with the source
networks' loss, `VAE.fit`, `training.fit` with the few-shot loss, `layers.predict` with
`metrics.summary`. Both sides start from the same weights where these could matter.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks import baseline
from benchmarks.material import LR, Material, network
from dwp import metrics
from dwp.bayes import layers
from dwp.bayes.objectives import cross_entropy, elbo
from dwp.experiments import few_shot
from dwp.initialisation import build_initialised
from dwp.nn import convnet
from dwp.nn.precision import autocast
from dwp.priors.base import KLEstimator
from dwp.priors.vae import VAE
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

SOURCE_L2, VAE_BATCH, SUBSET = 1e-3, 128, 256
# Few kernels, because evaluation during training is not the subject of the measurement.
TEST_KERNELS = 16
Call = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """One row: each side makes a call that does `amount` units.

    `goal` is the speed-up to reach; `unit` is the unit of the rate.
    """

    title: str
    unit: str
    goal: float
    baseline: Callable[[Material], tuple[Call, float]]
    ours: Callable[[Material], tuple[Call, float]]


# The library's side


def ours_source(m: Material) -> tuple[Call, float]:
    amount = m.sizes.source_batch * m.sizes.source_steps
    images, labels = m.source.images("train", m.device)[:amount], m.source.labels("train", m.device)[:amount]
    described = network(*m.sizes.source), m.source.image_shape, m.source.classes
    model = build_initialised(*described, m.seed, build=m.build).to(m.device)
    schedule = Schedule(lr=LR, epochs=1, batch=m.sizes.source_batch, precision=m.precision)
    loss = cross_entropy(model, SOURCE_L2)
    return lambda: fit(model, loss, (images, labels), schedule, seed=m.seed), amount


def ours_vae(size: int) -> Callable[[Material], tuple[Call, float]]:
    def make(m: Material) -> tuple[Call, float]:
        kernels = m.kernels(size, m.sizes.kernels[size])
        schedule = {"lr": LR, "epochs": 1, "batch": VAE_BATCH, "precision": m.precision}
        settings = {**m.sizes.vaes[size], "schedule": schedule}
        return lambda: VAE.fit(kernels, kernels[:TEST_KERNELS], settings, seed=m.seed), len(kernels)

    return make


def ours_few_shot(subset: int | None) -> Callable[[Material], tuple[Call, float]]:
    def make(m: Material) -> tuple[Call, float]:
        chosen, model = m.examples(), m.bayesian()
        images, labels = (
            tensor("train", m.device)[chosen.to(m.device)] for tensor in (m.target.images, m.target.labels)
        )
        steps = m.sizes.steps if subset is None else m.sizes.subset_steps
        schedule = Schedule(lr=LR, steps=steps, precision=m.precision)
        loss = elbo(model, len(labels), KLEstimator(subset))
        trained = nn.ModuleList([model, *layers.reverse_models(model)])
        return lambda: fit(trained, loss, (images, labels), schedule, seed=m.seed), steps

    return make


def ours_evaluation(m: Material) -> tuple[Call, float]:
    model = m.bayesian()
    images, labels = m.target.images("test", m.device), m.target.labels("test", m.device)

    def call() -> dict[str, float]:
        with autocast(m.device, m.precision):
            mean = layers.predict(model, images, samples=0)[0]
            members = layers.predict(model, images, m.sizes.members)
        return {
            **metrics.summary(members.mean(0), labels),
            "mean_accuracy": metrics.accuracy(mean, labels),
        }

    return call, 1


def ours_run(m: Material, subset: int | None) -> list[dict]:
    """Run one whole few-shot experiment; return its rows {step, metric, value}."""
    return few_shot.run(m.few_shot(subset))


# The baseline's side


def baseline_source(m: Material) -> tuple[Call, float]:
    amount, device = m.sizes.source_batch * m.sizes.source_steps, m.device
    loader = baseline.image_loader(
        m.source.train_images[:amount],
        m.source.train_labels[:amount],
        m.sizes.source_batch,
        shuffle=True,
        workers=m.options.workers,
    )
    model = baseline.ConvNet(*m.sizes.source).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    return lambda: baseline.train_source(model, optimizer, loader, SOURCE_L2, device), amount


def baseline_vae(size: int) -> Callable[[Material], tuple[Call, float]]:
    def make(m: Material) -> tuple[Call, float]:
        kernels = m.kernels(size, m.sizes.kernels[size])
        loader = baseline.kernel_loader(kernels, VAE_BATCH, m.options.workers)
        vae = baseline.KernelVAE(size, **m.sizes.vaes[size]).to(m.device)
        optimizer = torch.optim.Adam(vae.parameters(), lr=LR)
        return lambda: baseline.train_vae(vae, optimizer, loader, m.device), len(kernels)

    return make


def baseline_bayesian(m: Material) -> tuple[baseline.ConvNet, dict[int, baseline.KernelVAE]]:
    """Return the baseline's few-shot network and priors, with the library's initial weights."""
    ours = m.bayesian()
    model = baseline.ConvNet(*m.sizes.target, layer=baseline.BayesianConv2d)
    copy_network(ours, model)
    priors = {}
    for size, prior in m.priors.items():
        priors[size] = baseline.KernelVAE(size, prior.settings["hidden"], prior.latent)
        copy_vae(prior, priors[size])
        priors[size].to(m.device)
    return model.to(m.device), priors


def baseline_few_shot(m: Material) -> tuple[Call, float]:
    model, priors = baseline_bayesian(m)
    return lambda: baseline_training(m, model, priors), m.sizes.steps


def baseline_training(m: Material, model: baseline.ConvNet, priors: dict[int, baseline.KernelVAE]) -> None:
    """Train the baseline's few-shot network, with a new optimiser."""
    chosen = m.examples()
    images, labels = m.target.train_images[chosen], m.target.train_labels[chosen]
    loader = baseline.image_loader(images, labels, len(chosen), shuffle=True, workers=m.options.workers)
    trained = [parameter for prior in priors.values() for parameter in baseline.reverse_model(prior)]
    optimizer = torch.optim.Adam([*model.parameters(), *trained], lr=LR)
    baseline.train_few_shot(model, priors, optimizer, loader, m.sizes.steps, m.device)


def baseline_evaluation(m: Material) -> tuple[Call, float]:
    model, _ = baseline_bayesian(m)
    images, labels = m.target.test_images, m.target.test_labels
    loader = baseline.image_loader(
        images, labels, baseline.TEST_BATCH, shuffle=False, workers=m.options.workers
    )
    return lambda: baseline.evaluate(model, loader, m.device, m.sizes.members), 1


# Copies of the library's weights, so that both sides do the same work


@torch.no_grad()
def copy_network(ours: nn.Module, theirs: baseline.ConvNet) -> None:
    """Copy the weights of the library's network, ordinary or Bayesian, into the baseline's."""
    convolutions = layers.bayesian_layers(ours) or [layer for _, layer in convnet.convolutions(ours)]
    for mine, layer in zip(convolutions, (theirs.conv1, theirs.conv2), strict=True):
        layer.bias.copy_(mine.bias)
        if isinstance(layer, baseline.BayesianConv2d):
            layer.mean.copy_(mine.posterior.mean)
            layer.log_variance.copy_(mine.posterior.log_variance)
        else:
            layer.weight.copy_(mine.weight)
    theirs.classifier.load_state_dict(ours.classifier.state_dict())


@torch.no_grad()
def copy_vae(ours: VAE, theirs: baseline.KernelVAE) -> None:
    """Copy the weights of the library's VAE into the baseline's, whose mean and variance have two heads."""

    def layers(modules: Iterable[nn.Module]) -> list[nn.Module]:
        return [module for module in modules if hasattr(module, "weight")]

    *encoder, code = layers(ours.encoder)
    *decoder, kernel = layers(ours.decoder)
    pairs = [*zip(encoder, layers(theirs.encoder), strict=True)]
    pairs += zip(decoder, layers(theirs.decoder), strict=True)
    for mine, layer in pairs:
        layer.load_state_dict(mine.state_dict())
    for mine, heads in (
        (code, (theirs.code_mean, theirs.code_variance)),
        (kernel, (theirs.kernel_mean, theirs.kernel_variance)),
    ):
        for name in ("weight", "bias"):
            for part, head in zip(getattr(mine, name).chunk(2), heads, strict=True):
                getattr(head, name).copy_(part)


WORKLOADS: dict[str, Workload] = {
    "source": Workload("source net", "images/s", 4, baseline_source, ours_source),
    "vae7": Workload("VAE 7×7 training", "kernels/s", 5, baseline_vae(7), ours_vae(7)),
    "vae5": Workload("VAE 5×5 training", "kernels/s", 5, baseline_vae(5), ours_vae(5)),
    "step": Workload("few-shot step, all kernels", "steps/s", 5, baseline_few_shot, ours_few_shot(None)),
    "subset": Workload(
        f"few-shot step, ours with {SUBSET} kernels", "steps/s", 20, baseline_few_shot, ours_few_shot(SUBSET)
    ),
    "evaluation": Workload("evaluation of the ensemble", "1/s", 10, baseline_evaluation, ours_evaluation),
}
