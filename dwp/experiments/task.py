"""The inputs of one run of an experiment, and the run itself: one method with one seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dwp.data.dataset import Dataset
from dwp.data.splits import few_shot
from dwp.experiments import base, methods
from dwp.experiments._controls import remove_structure_
from dwp.experiments.base import ExperimentSettings, Method, Names, TrainingSettings
from dwp.initialisation import build_initialised, load_
from dwp.nn.convnet import build
from dwp.nn.seeding import derived_seed
from dwp.nn.spec import RULES
from dwp.priors.base import Prior
from dwp.training.checkpoints import Checkpoint
from dwp.training.loop import fit

S = TypeVar("S", bound=ExperimentSettings, covariant=True)
M = TypeVar("M", bound=Method, covariant=True)


@dataclass(frozen=True)
class Task(Generic[S, M]):
    """One method at one setting with one seed.

    Attributes:
        setting: a value of the experiment's axis.
        seed: seed of all random numbers.
        settings: settings of the experiment; `seeds`, `shard` and `methods` have no effect here.
        method: settings of the method.
        dataset: the target data set, or a `dwp.data.text.Text` if the experiment reads text.
        priors: priors of the method, by name and kernel size.
        device: device to compute on.
        outliers: the source data set, if the setting `outliers` is on.
        pretrained: state dicts of source networks by number, for methods that start from them; the network in
            `settings` is then theirs.
        checkpoint: where to save progress and resume from; None keeps none.
        label: name in logs and progress bars.
    """

    setting: float
    seed: int
    settings: S
    method: M
    dataset: Dataset
    priors: Mapping[str, Mapping[int, Prior]]
    device: torch.device
    outliers: Dataset | None = None
    pretrained: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    label: str = ""

    def training_examples(self, count: int | None) -> tuple[Tensor, Tensor]:
        """Return `count` training images [n, c, h, w], drawn by the seed, and their labels [n].

        None, or the number of all images, stands for all, whose classes may differ in size.

        Raises:
            InputError: a class has too few examples.
        """
        images = self.dataset.images("train", self.device)
        labels = self.dataset.labels("train", self.device)
        if count is None or count == len(labels):
            return images, labels
        chosen = few_shot(labels, count, self.seed).to(self.device)
        return images[chosen], labels[chosen]

    def build_initialised(
        self, width: float = 1.0, member: int = 0, build: Callable[..., nn.Module] = build
    ) -> nn.Module:
        """Return the network before training, initialised by the method, on the device.

        Args:
            width: factor on the channels.
            member: index in an ensemble; members share no random numbers.
            build: as in `initialisation.build_initialised`.
        """
        method: Any = self.method
        network, init = self.settings.network, method.init
        dropout = getattr(self.method, "dropout", None)
        model = build_initialised(
            network if dropout is None else replace(network, dropout=dropout),
            self.dataset.image_shape,
            self.dataset.classes,
            # For the first member, this is the seed itself.
            derived_seed(member, self.seed),
            width=width,
            origins={} if self.pretrained else self.by_layer(init.origin),
            mean=init.draw == "mean",
            build=build,
        )
        if self.pretrained:
            members = getattr(self.method, "members", 1)
            load_(model, self.pretrained[methods.source_net(members, self.seed, member)])
        remove_structure_(model, init.control, derived_seed(member, self.seed))
        return model.to(self.device)

    def priors_by_layer(self, choice: Names | None) -> dict[int | str, Prior | None]:
        """Return the chosen prior of each convolution, by layer name."""
        chosen = self.by_layer(choice or {})
        return {layer: prior for layer, prior in chosen.items() if isinstance(prior, Prior)}

    def by_layer(self, choice: Names) -> dict[str, Prior | str]:
        """Return the chosen prior, or rule of initialisation, of each convolution, by layer name."""
        network = self.settings.network
        sizes = network.layer_sizes()
        return {
            layer: name if name in RULES else self.priors[name][sizes[layer]]
            for layer, name in methods.by_layer(choice, network).items()
        }

    def fit(
        self: "Task[TrainingSettings, Method]",
        model: nn.Module,
        loss: Callable[..., tuple[Tensor, dict[str, Tensor]]],
        data: tuple[Tensor, ...],
        evaluate: Callable[[], dict[str, float]],
    ) -> list[dict]:
        """Train under the experiment's schedule; return rows {step, metric, value}, see `training.fit`."""
        return fit(
            model,
            loss,
            data,
            self.settings.schedule,
            seed=self.seed,
            evaluate=evaluate,
            every=self.settings.every,
            checkpoint=self.checkpoint,
            label=self.label,
        )


def run(
    experiment: str,
    name: str,
    seed: int,
    *,
    settings: ExperimentSettings,
    checkpoint: Checkpoint | None = None,
    **shared: Any,
) -> list[dict]:
    """Run one method with one seed, at each value that `settings` has of the experiment's axis.

    Args:
        experiment, name: names of the experiment and the method, for the rows.
        seed: its rows do not depend on any other seed.
        settings: settings of the experiment.
        checkpoint: checkpoint of all seeds, from which each derives its own. Used only for a single
            value of the axis: networks of several would resume from each other's checkpoints.
        shared: the other attributes of `Task`: `method`, `dataset`, `priors`, `device`, ….

    Returns:
        Rows with all of `base.COLUMNS`.
    """
    declared = base.find(experiment)
    values = [float(value) for value in getattr(settings, declared.axis)]
    own = checkpoint.of(seed) if checkpoint and len(values) == 1 else None
    rows = []
    for value in values:
        label = f"{experiment} {name} {declared.axis} {value:g} seed {seed}"
        task: Task[Any, Any] = Task(
            setting=value, seed=seed, settings=settings, checkpoint=own, label=label, **shared
        )
        cell = {"experiment": experiment, "method": name, "setting": value, "seed": seed}
        rows += [{**cell, "step": None, "metric": None, "part": "", **row} for row in declared.run(task)]
    return rows
