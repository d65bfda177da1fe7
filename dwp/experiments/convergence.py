"""Convergence: how fast an ordinary network learns from different initialisations (paper, section 5.3).

A method is {init}. The setting is the width of the network.
"""

from dwp import metrics
from dwp.bayes import layers
from dwp.bayes.objectives import cross_entropy
from dwp.data.splits import few_shot
from dwp.experiments.base import TRAINING, Task
from dwp.nn.convnet import convolutions
from dwp.nn.precision import autocast

AXIS = "width"
OPTIONS = {
    **TRAINING,
    "width": {"$ref": "#/$defs/widths"},
    "examples": {"$ref": "#/$defs/count_or_null"},
}
METHOD: dict[str, dict] = {}


def run(task: Task) -> list[dict]:
    """Train one network; return its test accuracy and nll by step, and its train_nll."""
    return train(task, frozen=False)


def train(task: Task, *, frozen: bool) -> list[dict]:
    """Train one network, with its convolutions `frozen` or not; return metrics by step."""
    settings, device, dataset = task.settings, task.device, task.dataset
    images, labels = dataset.images("train", device), dataset.labels("train", device)
    if settings["examples"] is not None:
        chosen = few_shot(labels, settings["examples"], task.seed).to(device)
        images, labels = images[chosen], labels[chosen]
    test_images, test_labels = dataset.images("test", device), dataset.labels("test", device)
    model = task.start(width=task.setting)
    for _, convolution in convolutions(model):
        convolution.requires_grad_(not frozen)

    def evaluate() -> dict[str, float]:
        with autocast(device, settings["schedule"]["precision"]):
            probabilities = layers.predict(model, test_images, samples=0)[0]
        return {
            "accuracy": metrics.accuracy(probabilities, test_labels),
            "nll": metrics.nll(probabilities, test_labels),
        }

    return task.fit(model, cross_entropy(model), (images, labels), evaluate)
