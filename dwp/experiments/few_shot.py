"""Few-shot classification: networks trained on n examples of the target set (paper, section 5.1).

A method is {posterior, prior, init, l2}: its posterior's form ('none' for a
deterministic network), the prior over its kernels, where they start, and the weight
of an L2 penalty on them.
"""

from copy import deepcopy

import torch

from dwp import bayes, metrics, posteriors
from dwp.data.splits import few_shot
from dwp.devices import autocast
from dwp.experiments import Task
from dwp.objectives import cross_entropy, elbo
from dwp.priors.base import Bound

AXIS = "examples"
OPTIONS = {
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
}
METHOD = {
    "posterior": {
        "enum": [*posteriors.FORMS, "none"],
        "description": f"{', '.join(posteriors.FORMS)} or none",
    },
    "prior": {"type": "string", "description": "the name of a prior"},
    "l2": {"$ref": "#/$defs/weight"},
}


def run(task: Task) -> list[dict]:
    """Train one network; return its predictive metrics on the test set, by step.

    Metrics: accuracy, nll, brier, ece of the ensemble of `ensemble` samples of the
    posterior; mean_accuracy of the posterior mean; train_nll (mean, nats), kl (sum, nats).
    """
    settings, method, device = task.settings, task.method, task.device
    labels = task.dataset.labels("train", device)
    chosen = few_shot(labels, int(task.setting), task.seed).to(device)
    images, labels = task.dataset.images("train", device)[chosen], labels[chosen]
    test_images, test_labels = task.dataset.images("test", device), task.dataset.labels("test", device)
    model = task.start()
    bayesian = method["posterior"] != "none"
    if bayesian:
        # Copies, since the model takes them over and the next seed needs them as they were.
        priors = {size: deepcopy(prior).to(device) for size, prior in task.priors[method["prior"]].items()}
        for prior in priors.values():
            if settings["train_reverse_model"] and (reverse_model := prior.reverse_model()):
                reverse_model.requires_grad_(True)
        bayes.make_bayesian(model, priors, method["posterior"])
        bound = Bound(
            settings["kernel_subset"], settings["posterior_samples"], settings["importance_samples"]
        )
        loss = elbo(model, len(labels), bound)
    else:
        loss = cross_entropy(model, method.get("l2", 0.0))

    def evaluate() -> dict[str, float]:
        with autocast(device, settings["schedule"]["precision"]):
            mean = bayes.predict(model, test_images, samples=0)[0]
            members = bayes.predict(model, test_images, settings["ensemble"]) if bayesian else mean[None]
        return {
            **metrics.summary(members.mean(0), test_labels),
            "mean_accuracy": metrics.accuracy(mean, test_labels),
        }

    return task.fit(model.to(memory_format=torch.channels_last), loss, (images, labels), evaluate)
