"""Experiments: each module compares methods on the target data set.

An experiment is a module `dwp/experiments/<name>.py` with

- `AXIS`: the name of the setting that it varies (`examples`, `width`);
- `OPTIONS`, `METHOD`: the keys that it and each of its methods add to the configuration,
  with their JSON schemas (`$ref` may name a definition of the configuration's schema);
- `REQUIRED`, if there is any: those of METHOD that no method may leave out;
- `run(task) -> rows`: one method at one setting with one seed; rows {step, metric, value}.

One that trains has `TRAINING` among its OPTIONS, and a job for each setting. One that does
not costs less than a job: all its settings are one, and its rows have no course to show.
An experiment with the option `outliers` gets the source data set too.

A new experiment is a new file, and no other file changes.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import torch

from dwp.bayes.objectives import Loss
from dwp.data.dataset import Dataset
from dwp.errors import InputError
from dwp.experiments import methods
from dwp.initialisation import RULES, load_, start
from dwp.nn.convnet import build, layer_sizes
from dwp.priors.base import Prior
from dwp.training.checkpoints import Checkpoint
from dwp.training.loop import Schedule, fit

TRAINING = {
    "schedule": {"$ref": "#/$defs/schedule"},
    "every": {"type": "integer", "minimum": 0, "description": "a whole number from 0"},
}
"""Options of an experiment that trains, see `Task.fit`."""

BETWEEN_MEMBERS = 1_000_003
"""Between the seeds of two members of an ensemble."""

COLUMNS = ("experiment", "method", "setting", "seed", "step", "metric", "value")


@dataclass(frozen=True)
class Task:
    """One method at one setting with one seed.

    Attributes:
        setting: None, for `run` below, means all that `settings` has of the experiment's AXIS.
        settings: the experiment's (network, schedule, …).
        method: what the method chooses.
        dataset: the target data set.
        priors: those the method needs, by name and then by kernel size.
        outliers: the source data set, where `settings` has `outliers`.
        pretrained: state dicts of source networks by seed, for methods that start from them.
    """

    setting: float | None
    seed: int
    settings: dict
    method: dict
    dataset: Dataset
    priors: dict[str, dict[int, Prior]]
    device: torch.device
    outliers: Dataset | None = None
    pretrained: Mapping[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    label: str = ""

    def start(
        self, width: float = 1.0, member: int = 0, build: Callable[..., torch.nn.Module] = build
    ) -> torch.nn.Module:
        """Return the network before training, initialised as the method says, on the device.

        Args:
            width: factor on the channels.
            member: of an ensemble; members differ in all that is drawn.
            build: as in `init.start`.
        """
        init = self.method["init"]
        network = self.settings["network"]
        if "dropout" in self.method:
            network = network | {"dropout": self.method["dropout"]}
        model = start(
            network,
            self.dataset.image_shape,
            self.dataset.classes,
            self.seed + member * BETWEEN_MEMBERS,
            width=width,
            origins={} if self.pretrained else self.by_layer(init["from"]),
            mean=init.get("draw") == "mean",
            build=build,
        )
        if self.pretrained:
            load_(model, self.pretrained[self.seed])
        return model.to(self.device)

    def by_layer(self, choice: str | dict[str, str]) -> dict[str, Prior | str]:
        """Return the prior (or the rule of initialisation) that a choice names, for each convolution."""
        network = self.settings["network"]
        sizes = layer_sizes(network)
        return {
            layer: name if name in RULES else self.priors[name][sizes[layer]]
            for layer, name in methods.by_layer(choice, network).items()
        }

    def fit(
        self,
        model: torch.nn.Module,
        loss: Loss,
        data: tuple[torch.Tensor, ...],
        evaluate: Callable[[], dict[str, float]],
    ) -> list[dict]:
        """Train under the experiment's schedule; return rows {step, metric, value}, see `training.fit`."""
        return fit(
            model,
            loss,
            data,
            Schedule(**self.settings["schedule"]),
            seed=self.seed,
            evaluate=evaluate,
            every=self.settings["every"],
            checkpoint=self.checkpoint,
            label=self.label,
        )


def known() -> list[str]:
    """Return the names of all experiments."""
    modules = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    return sorted(modules - {"base", "methods", "source_nets"})


def find(name: str) -> ModuleType:
    """Return the module of an experiment.

    Raises:
        InputError: there is none of that name.
    """
    if name not in known():
        raise InputError(f"experiments: {name!r} is not known; use one of {', '.join(known())}")
    return importlib.import_module(f"dwp.experiments.{name}")


def trains(name: str) -> bool:
    """Return whether an experiment trains networks.

    Raises:
        InputError: there is none of that name.
    """
    return "schedule" in find(name).OPTIONS


def run(experiment: str, method: str, task: Task, seeds: Iterable[int]) -> list[dict]:
    """Run one method, at one setting or at all, with several seeds; return rows with all of COLUMNS.

    What a seed yields does not depend on the others.
    """
    module = find(experiment)
    settings = task.settings[module.AXIS] if task.setting is None else [task.setting]
    rows = []
    for seed in seeds:
        for setting in map(float, settings):
            label = f"{experiment} {method} {module.AXIS} {setting:g} seed {seed}"
            checkpoint = task.checkpoint and task.checkpoint.of(seed)
            own = replace(task, setting=setting, seed=seed, label=label, checkpoint=checkpoint)
            origin = {"experiment": experiment, "method": method, "setting": setting, "seed": seed}
            rows += [{**origin, **row} for row in module.run(own)]
    return rows
