"""Few-shot classification: networks trained on n examples of the target set (paper, section 5.1).

A method is {posterior, prior, init, l2, dropout, members, laplace}: its posterior's form
('none' for a deterministic network), the prior over its kernels, where they start, the
weight of an L2 penalty on them, the rate of dropout (at test MC dropout), how many
networks vote (a deep ensemble), and whether the last layer gets a Laplace approximation.
"""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dwp import metrics
from dwp.bayes import last_layer_laplace, layers, posteriors
from dwp.bayes.objectives import Loss, cross_entropy, elbo, together
from dwp.data.splits import few_shot
from dwp.experiments.base import TRAINING, Task
from dwp.experiments.methods import NAMES, is_bayesian
from dwp.nn.noise import stochastic_layers
from dwp.nn.precision import autocast
from dwp.priors.base import KLEstimator

AXIS = "examples"
OPTIONS = {
    **TRAINING,
    "examples": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"$ref": "#/$defs/count"},
        "description": "a list of numbers of examples",
    },
    "ensemble": {"$ref": "#/$defs/count"},
    "kernel_subset": {"$ref": "#/$defs/count_or_null"},
    "posterior_samples": {"$ref": "#/$defs/count"},
    "importance_samples": {"$ref": "#/$defs/count"},
    "train_reverse_model": {"type": "boolean", "description": "true or false"},
    "outliers": {"type": "boolean", "description": "true or false"},
}
METHOD = {
    "posterior": {
        "enum": [*posteriors.FORMS, "none"],
        "description": f"{', '.join(posteriors.FORMS)} or none",
    },
    "prior": NAMES,
    "l2": {"$ref": "#/$defs/weight"},
    "dropout": {"$ref": "#/$defs/rate"},
    "members": {"$ref": "#/$defs/count"},
    "laplace": {"type": "boolean", "description": "true or false"},
}


def run(task: Task) -> list[dict]:
    """Train one network, or several that vote; return their predictive metrics on the test set, by step.

    By step: accuracy, nll, brier, ece of the ensemble of `ensemble` samples of the
    posterior; mean_accuracy of the posterior mean; train_nll (mean, nats), kl (sum, nats).
    After the last: with `outliers`, auroc_entropy and auroc_mutual_information of telling test
    images of the source data set from those of the target; the reliability diagram, see
    `metrics.reliability`; train_flops, and predict_flops of one test image.
    """
    settings, device = task.settings, task.device
    labels = task.dataset.labels("train", device)
    chosen = few_shot(labels, int(task.setting), task.seed).to(device)
    data = task.dataset.images("train", device)[chosen], labels[chosen]
    images, labels = task.dataset.images("test", device), task.dataset.labels("test", device)
    models = nn.ModuleList(_model(task, member) for member in range(task.method.get("members", 1)))
    loss = together([_loss(task, model, len(data[0])) for model in models])
    predicted = torch.empty(0)

    def evaluate() -> dict[str, float]:
        nonlocal predicted
        with autocast(device, settings["schedule"]["precision"]):
            mean = torch.cat([layers.predict(model, images, samples=0) for model in models]).mean(0)
            predicted = _ensemble(task, models, data, images)
        return {
            **metrics.summary(predicted.mean(0), labels),
            "mean_accuracy": metrics.accuracy(mean, labels),
        }

    along = reverse_models(models) if is_bayesian(task.method) and settings["train_reverse_model"] else []
    trained = nn.ModuleList([*models, *along])
    rows = task.fit(trained, loss, data, evaluate)
    if not len(predicted):
        # Resumed from what was finished already.
        evaluate()
    last = rows[-1]["step"]
    found = metrics.reliability(predicted.mean(0), labels)
    with autocast(device, settings["schedule"]["precision"]):
        if task.outliers:
            found |= _outliers(task, models, data, predicted)
        found |= _flops(task, models, loss, data, last)
    return rows + [{"step": last, "metric": name, "value": value} for name, value in found.items()]


def _model(task: Task, member: int) -> nn.Module:
    model, method = task.start(member=member), task.method
    if is_bayesian(method):
        model = layers.make_bayesian(model, task.by_layer(method["prior"]), method["posterior"])
    return model


def reverse_models(model: nn.Module) -> list[nn.Module]:
    """Return the reverse models of the priors of a Bayesian model, to be trained along; p(w) stays frozen."""
    found = [prior.reverse_model() for prior in layers.priors(model)]
    return [reverse_model.requires_grad_(True) for reverse_model in found if reverse_model is not None]


def _loss(task: Task, model: nn.Module, examples: int) -> Loss:
    if not is_bayesian(task.method):
        return cross_entropy(model, task.method.get("l2", 0.0))
    names = ("kernel_subset", "posterior_samples", "importance_samples")
    return elbo(model, examples, KLEstimator(*(task.settings[name] for name in names)))


def _ensemble(task: Task, models: nn.ModuleList, data: tuple[Tensor, Tensor], images: Tensor) -> Tensor:
    """Return the class probabilities of every member, [members, n, classes]."""
    samples = task.settings["ensemble"]
    if task.method.get("laplace"):
        return torch.cat([last_layer_laplace.predict(model, *data, images, samples) for model in models])
    if not stochastic_layers(models):
        samples = 0
    return torch.cat([layers.predict(model, images, samples) for model in models])


def _outliers(
    task: Task, models: nn.ModuleList, data: tuple[Tensor, Tensor], predicted: Tensor
) -> dict[str, float]:
    """Return how well uncertainty tells the source data set's test images from the target's."""
    outside = _ensemble(task, models, data, task.outliers.images("test", task.device))
    scores = {"entropy": metrics.predictive_entropy, "mutual_information": metrics.mutual_information}
    return {
        f"auroc_{name}": metrics.auroc(score(predicted), score(outside)) for name, score in scores.items()
    }


def _flops(
    task: Task, models: nn.ModuleList, loss: Loss, data: tuple[Tensor, Tensor], steps: int
) -> dict[str, float]:
    """Return floating-point operations of all training steps, and of predicting one image."""
    images = task.dataset.images("test", task.device)
    batch = [tensor[: task.settings["schedule"]["batch"]] for tensor in data]
    # Counted are PyTorch's own convolutions, so that the numbers are the same on every device.
    with torch.random.fork_rng([task.device] if task.device.type == "cuda" else []):
        with FlopCounterMode(display=False) as training:
            loss(*batch)[0].backward()
        predictions = []
        for count in (10, 20):
            with FlopCounterMode(display=False) as prediction:
                _ensemble(task, models, data, images[:count])
            predictions.append(prediction.get_total_flops())
    return {
        "train_flops": float(training.get_total_flops() * steps),
        # The difference, since what is done once for all images is not a cost of each.
        "predict_flops": (predictions[1] - predictions[0]) / 10,
    }
