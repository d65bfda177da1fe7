"""Convergence of a VAE over images from different initialisations of its convolutions (paper, section 5.3).

A method is {init}; the encoder's convolutions and the decoder's transposed convolutions are
both drawn from it. The setting is the width of the network.
"""

import torch
from torch import Tensor

from dwp.data.splits import few_shot
from dwp.experiments import methods
from dwp.experiments.base import TRAINING, Task
from dwp.initialisation import RULES
from dwp.nn.image_vae import ImageVAE
from dwp.nn.precision import autocast

AXIS = "width"
OPTIONS = {
    **TRAINING,
    "width": {"$ref": "#/$defs/widths"},
    "examples": {"$ref": "#/$defs/count_or_null"},
    "latent": {"$ref": "#/$defs/count"},
}
METHOD = {"init": methods.init(tuple(RULES))}  # no network of the source is a VAE


def run(task: Task) -> list[dict]:
    """Train one VAE; return its lower bound on the log density of test images, by step.

    Metrics, means per image in nats: lower_bound and its parts, reconstruction and code_kl,
    on test images; train_lower_bound, on the minibatch.
    """
    settings, device, dataset = task.settings, task.device, task.dataset
    images, test_images = dataset.images("train", device), dataset.images("test", device)
    if settings["examples"] is not None:
        chosen = few_shot(dataset.labels("train", device), settings["examples"], task.seed)
        images = images[chosen.to(device)]
    model = task.start(
        task.setting,
        build=lambda network, shape, classes, width: ImageVAE(network, shape, settings["latent"], width),
    )

    def loss(images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        noise = torch.randn(len(images), model.latent, device=device)
        reconstruction, code_kl = model.bound(images, noise)
        lower_bound = (reconstruction - code_kl).mean()
        return -lower_bound, {"train_lower_bound": lower_bound}

    def evaluate() -> dict[str, float]:
        with autocast(device, settings["schedule"]["precision"]):
            return model.evaluate(test_images)

    return task.fit(model, loss, (images,), evaluate)
