"""Convergence of a VAE over images from different initialisations of its convolutions (paper, section 5.3).

Methods differ in the initialisation, from which the encoder's convolutions and the decoder's transposed
convolutions are drawn. The axis is the width of the network.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwp.experiments import base
from dwp.experiments.base import METHODS, Experiment, Factor, Figure, Metric, TrainingSettings
from dwp.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Method(base.KernelMethod):
    """Initialisation of the convolutions of encoder and decoder."""

    pretrained: ClassVar[bool] = False  # no source network is a VAE


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """Settings of the VAEs over images."""

    width: tuple[Factor, ...] = setting(
        "factors on the channels of every convolution", min_length=1, unique=True
    )
    examples: int | None = setting("training examples; null: all", ge=1)
    latent: int = setting("dimensions of an image's code", ge=1)
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Train one VAE; return its lower bound on the log density of test images, by step.

    Metrics, means per image in nats: lower_bound and its parts, reconstruction and code_kl,
    on test images; train_lower_bound, on the minibatch.
    """
    import torch

    from dwp.nn.image_vae import ImageVAE
    from dwp.nn.precision import autocast

    settings, device = task.settings, task.device
    images, _ = task.training_examples(settings.examples)
    test_images = task.dataset.images("test", device)
    model = task.build_initialised(
        task.setting,
        build=lambda network, shape, classes, width: ImageVAE(network, shape, settings.latent, width),
    )
    assert isinstance(model, ImageVAE)

    def loss(images: "Tensor") -> "tuple[Tensor, dict[str, Tensor]]":
        noise = torch.randn(len(images), model.latent, device=device)
        reconstruction, code_kl = model.bound(images, noise)
        lower_bound = (reconstruction - code_kl).mean()
        return -lower_bound, {"train_lower_bound": lower_bound}

    def evaluate() -> dict[str, float]:
        with autocast(device, settings.schedule.precision):
            return model.evaluate(test_images)

    return task.fit(model, loss, (images,), evaluate)


EXPERIMENT = Experiment(
    title="VAE over images from different initialisations",
    axis="width",
    axis_label="width factor",
    settings=Settings,
    method=Method,
    metrics=(
        Metric("lower_bound", "test lower bound", "nats per image", better="higher"),
        Metric("reconstruction", "log p(x|z)", "nats per image", better="higher"),
        Metric("code_kl", "KL(q(z|x)‖p(z))", "nats per image"),
        Metric(
            "train_lower_bound", "training lower bound", "nats per image", better="higher", role="training"
        ),
    ),
    figures=(
        Figure(
            caption="image_vae",
            draw="by_step",
            options={"metrics": ("lower_bound", "reconstruction", "code_kl")},
        ),
    ),
    run=run,
)
