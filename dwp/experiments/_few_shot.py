"""Few-shot classification: training and evaluation of the networks of one task.

A task's settings and method are those of `few_shot`, which imports this module when it runs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dwp import metrics
from dwp.bayes import last_layer_laplace, layers
from dwp.bayes.objectives import Loss, acceptance, cross_entropy, elbo, penalised, together
from dwp.bayes.posteriors import Additive
from dwp.bayes.sampling import NetworkPosterior, Samples, sample
from dwp.bayes.settings import SAMPLED
from dwp.experiments import _classifier
from dwp.experiments._augmentation import Examples, augmented
from dwp.experiments.methods import PRETRAINED
from dwp.experiments.task import Task
from dwp.nn.convnet import convolutions
from dwp.nn.noise import stochastic_layers
from dwp.nn.precision import autocast
from dwp.nn.seeding import derived_seed, seeded
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.centred import Centred
from dwp.priors.standard_normal import StandardNormal

PRUNED = 3.0
"""Log dropout rate above which a channel counts as pruned."""


class Outcome(NamedTuple):
    """Networks after training, or samples of their posterior."""

    rows: list[dict]
    """Rows {step, metric, value}."""
    predicted: Tensor
    """Class probabilities of the test images, [members, n, classes]."""
    predict: Callable[[Tensor], Tensor]
    """Returns those of other images."""
    differentiate: Callable[[], object]
    """Computes the gradient of one step."""
    models: nn.ModuleList = nn.ModuleList()
    """Networks after training, without samples of the posterior."""


def run(task: Task[Any, Any]) -> list[dict]:
    """Train one network or a deep ensemble, or sample from the posterior; return rows, see `few_shot.run`."""
    images, known = task.training_examples(int(task.setting))
    examples = augmented(images, known, task.method.augment, task.seed)
    test, labels = task.dataset.images("test", task.device), task.dataset.labels("test", task.device)
    outcome = (_sample if task.method.posterior == SAMPLED else _train)(task, examples, test, labels)
    predicted = outcome.predicted
    last = outcome.rows[-1]["step"]
    once: dict[str, float] = {}
    with autocast(task.device, _precision(task)):
        if task.outliers:
            outside = outcome.predict(task.outliers.images("test", task.device))
            once |= _outliers(predicted, outside)
        once |= _flops(task, outcome, test, last)
    return [
        *outcome.rows,
        *(
            {"step": last, "metric": f"bin_{name}", "part": str(part.index), "value": getattr(part, name)}
            for part in metrics.reliability(predicted.mean(0), labels)
            for name in ("confidence", "accuracy", "fraction")
        ),
        *({"step": last, "metric": name, "value": value} for name, value in once.items()),
        *(
            {"step": last, "metric": "channels", "part": name, "value": value}
            for name, value in _channels(outcome.models).items()
        ),
    ]


def _channels(models: nn.ModuleList) -> dict[str, float]:
    """Return the number of channels that are not pruned, by convolution with scales; the mean over models."""
    kept: dict[str, float] = {}
    for model in models:
        for name, layer in model.named_modules():
            if isinstance(layer, layers.BayesianLayer) and layer.scales is not None:
                count = float((layer.scales.log_dropout() <= PRUNED).sum())
                kept[name] = kept.get(name, 0.0) + count / len(models)
    return kept


def _precision(task: Task[Any, Any]) -> str:
    # The acceptance of a trajectory is a small difference of large numbers.
    return "float32" if task.method.posterior == SAMPLED else task.settings.schedule.precision


def _train(task: Task[Any, Any], examples: Examples, test: Tensor, labels: Tensor) -> Outcome:
    """Train one network or a deep ensemble, with evaluations on the test images."""
    settings, device = task.settings, task.device
    data = examples.images, examples.labels
    models, losses = nn.ModuleList(), []
    for member in range(task.method.members):
        model, loss = _network(task, member, examples)
        models.append(model)
        losses.append(loss)
    loss = together(losses)
    predicted = torch.empty(0)

    def evaluate() -> dict[str, float]:
        nonlocal predicted
        with autocast(device, _precision(task)):
            mean = torch.cat([layers.predict(model, test, samples=0) for model in models]).mean(0)
            predicted = _ensemble(task, models, data, test)
        return {
            **metrics.summary(predicted.mean(0), labels),
            "mean_accuracy": metrics.accuracy(mean, labels),
        }

    along = layers.reverse_models(models) if task.method.is_bayesian and settings.train_reverse_model else []
    trained = nn.ModuleList([*models, *along])
    if task.method.frozen:
        rows = [{"step": 0, "metric": name, "value": value} for name, value in evaluate().items()]
    else:
        rows = task.fit(trained, loss, data, evaluate)
    if not len(predicted):
        # The job resumed after the last step.
        evaluate()
    batch = [tensor[: settings.schedule.batch] for tensor in data]
    return Outcome(
        rows,
        predicted,
        lambda images: _ensemble(task, models, data, images),
        lambda: loss(*batch)[0].backward(),
        models,
    )


def _sample(task: Task[Any, Any], examples: Examples, test: Tensor, labels: Tensor) -> Outcome:
    """Sample from the posterior of a network, in one or several chains, and evaluate on the test images."""
    method, settings = task.method, task.settings
    chains: list[Samples] = []
    rows: list[dict] = []
    known: dict[int, Tensor] = {}

    def predict(chains: list[Samples], images: Tensor) -> Tensor:
        chosen = [one for chain in chains for one in chain.thinned(settings.ensemble).parameters]
        if images is not test:
            return Samples(model, chosen).predict(images)
        # Samples that an earlier evaluation has predicted with are not predicted with again.
        new = [one for one in chosen if id(one) not in known]
        if new:
            known.update(zip(map(id, new), Samples(model, new).predict(images), strict=True))
        return torch.stack([known[id(one)] for one in chosen])

    for member in range(method.members):
        model = task.build_initialised(width=method.width, member=member)
        priors = _priors(task, model)
        refine = None
        if method.classifier == "fitted":
            fitted = _classifier.fit_(model, examples)
            priors["classifier"] = StandardNormal(1, fitted.precision**-0.5)
            refine = functools.partial(_classifier.refitted, model, examples, fitted.scale)

        def evaluate(samples: Samples) -> dict[str, float]:
            return metrics.summary(predict([*chains, samples], test).mean(0), labels)

        posterior = NetworkPosterior(
            model,
            priors,
            examples.images,
            examples.labels,
            default=StandardNormal.kind,
            weight=method.kl_weight,
            examples=examples.originals,
        )
        last = member == method.members - 1
        samples, rows = sample(
            posterior,
            settings.schedule.total_steps(len(examples.labels)),
            seed=derived_seed(member, task.seed),
            refine=refine,
            evaluate=evaluate if last else None,
            every=settings.every if last else 0,
            checkpoint=task.checkpoint.of(member) if task.checkpoint else None,
            label=f"{task.label} chain {member}",
        )
        chains.append(samples)
    start = {name: x.requires_grad_() for name, x in posterior.start().items()}
    return Outcome(
        rows,
        predict(chains, test),
        functools.partial(predict, chains),
        lambda: posterior.potential(start).backward(),
    )


def _network(task: Task[Any, Any], member: int, examples: Examples) -> tuple[nn.Module, Loss]:
    """Return a network before training, and its loss."""
    method, settings = task.method, task.settings
    model = task.build_initialised(width=method.width, member=member)
    precision = 0.0
    if method.classifier == "fitted":
        precision = _classifier.fit_(model, examples).precision
    if method.is_bayesian:
        priors = _priors(task, model)
        model = layers.make_bayesian(model, priors, method.posterior, scales=method.scales)
        if method.log_variance is not None:
            for layer in layers.bayesian_layers(model):
                assert isinstance(layer.posterior, Additive)
                layer.posterior.log_variance.data.fill_(method.log_variance)
        if method.objective == "acceptance":
            loss = acceptance(model, examples.originals, method.kl_weight)
        else:
            estimator = KLEstimator(
                settings.kernel_subset, settings.posterior_samples, settings.importance_samples
            )
            loss = elbo(model, examples.originals, estimator, method.kl_weight)
    else:
        loss = cross_entropy(model, method.l2)
    if precision:
        loss = penalised(loss, _classifier.of(model), precision / examples.originals)
    return model, loss


def _priors(task: Task[Any, Any], model: nn.Module) -> dict[int | str, Prior | None]:
    """Return the prior of each convolution of a network before training, by layer name."""
    if task.method.prior == PRETRAINED:
        return {name: Centred(layer.weight, task.method.prior_scale) for name, layer in convolutions(model)}
    return task.priors_by_layer(task.method.prior)


def _ensemble(
    task: Task[Any, Any], models: nn.ModuleList, data: tuple[Tensor, Tensor], images: Tensor
) -> Tensor:
    """Return the class probabilities of every member, [members, n, classes]."""
    samples = task.settings.ensemble
    if task.method.laplace:
        return torch.cat([last_layer_laplace.predict(model, *data, images, samples) for model in models])
    if not stochastic_layers(models):
        samples = 0
    return torch.cat([layers.predict(model, images, samples) for model in models])


def _outliers(predicted: Tensor, outside: Tensor) -> dict[str, float]:
    """Return the AUROCs of the predictive uncertainties as detectors of the source's test images.

    Args:
        predicted: predictions for the target's test images, [members, n, classes].
        outside: predictions for the source's test images.
    """
    scores = {"entropy": metrics.predictive_entropy, "mutual_information": metrics.mutual_information}
    return {
        f"auroc_{name}": metrics.auroc(score(predicted), score(outside)) for name, score in scores.items()
    }


def _flops(task: Task[Any, Any], outcome: Outcome, images: Tensor, steps: int) -> dict[str, float]:
    """Return the floating-point operations of all training steps, and of the prediction of one image."""
    # PyTorch's own convolutions are counted, so that the numbers are the same on every device.
    with seeded(task.seed, task.device):
        with FlopCounterMode(display=False) as training:
            outcome.differentiate()
        predictions = []
        for count in (10, 20):
            with FlopCounterMode(display=False) as prediction:
                outcome.predict(images[:count])
            predictions.append(prediction.get_total_flops())
    return {
        "train_flops": float(training.get_total_flops() * steps),
        # The difference excludes operations that are done once for all images.
        "predict_flops": (predictions[1] - predictions[0]) / 10,
    }
