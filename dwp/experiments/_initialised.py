"""Training of ordinary networks from an initialisation, with frozen or trained convolutions."""

from typing import Any

from dwp import metrics
from dwp.bayes import layers
from dwp.bayes.objectives import cross_entropy
from dwp.experiments.task import Task
from dwp.nn.convnet import convolutions
from dwp.nn.precision import autocast


def train(task: Task[Any, Any], *, frozen: bool) -> list[dict]:
    """Train one network, with its convolutions `frozen` or trained; return metrics by step."""
    settings, device, dataset = task.settings, task.device, task.dataset
    data = task.training_examples(settings.examples)
    test_images, test_labels = dataset.images("test", device), dataset.labels("test", device)
    model = task.build_initialised(width=task.setting)
    for _, convolution in convolutions(model):
        convolution.requires_grad_(not frozen)

    def evaluate() -> dict[str, float]:
        with autocast(device, settings.schedule.precision):
            probabilities = layers.predict(model, test_images, samples=0)[0]
        return {
            "accuracy": metrics.accuracy(probabilities, test_labels),
            "nll": metrics.nll(probabilities, test_labels),
        }

    return task.fit(model, cross_entropy(model), data, evaluate)
