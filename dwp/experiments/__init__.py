"""Experiments: each module compares methods on the target data set.

An experiment is a module `dwp/experiments/<name>.py` with

- `AXIS`: the name of the setting that it varies (`examples`, `width`);
- `OPTIONS`, `METHOD`: the keys that it and each of its methods add to the configuration,
  with their JSON schemas (`$ref` may name a definition of the configuration's schema);
- `run(task) -> rows`: one method at one setting with one seed; rows {step, metric, value}.

A new experiment is a new file, and no other file changes.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch

from dwp.data.dataset import Dataset
from dwp.errors import InputError
from dwp.init import RULES, start
from dwp.networks import build
from dwp.objectives import Loss
from dwp.priors.base import Prior
from dwp.training import Checkpoint, Schedule, fit

COLUMNS = ("experiment", "method", "setting", "seed", "step", "metric", "value")


@dataclass(frozen=True)
class Task:
    """One method at one setting with one seed.

    `settings` are the experiment's (network, schedule, …), `method` what the method
    changes, `priors` the priors it needs, by name and then by kernel size.
    """

    setting: float
    seed: int
    settings: dict
    method: dict
    dataset: Dataset
    priors: dict[str, dict[int, Prior]]
    device: torch.device
    checkpoint: Checkpoint | None = None
    label: str = ""

    def start(self, width: float = 1.0, build: Callable[..., torch.nn.Module] = build) -> torch.nn.Module:
        """Return the network before training, initialised as the method says, on the device.

        `build` as in `init.start`.
        """
        init = self.method["init"]
        origin = init["from"]
        drawn = origin not in RULES
        model = start(
            self.settings["network"],
            self.dataset.image_shape,
            self.dataset.classes,
            self.seed,
            width=width,
            rule="xavier" if drawn else origin,
            priors=self.priors[origin].values() if drawn else (),
            mean=init.get("draw") == "mean",
            build=build,
        )
        return model.to(self.device)

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


def find(name: str) -> ModuleType:
    """Return the module of an experiment.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return importlib.import_module(f"dwp.experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"dwp.experiments.{name}":
            raise
        known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
        raise InputError(f"experiments: {name!r} is not known; use one of {', '.join(known)}") from None


def run(experiment: str, method: str, task: Task, seeds: Iterable[int]) -> list[dict]:
    """Run one method at one setting with several seeds; return rows with all of COLUMNS.

    What a seed yields does not depend on the others.
    """
    module = find(experiment)
    rows = []
    for seed in seeds:
        label = f"{experiment} {method} {module.AXIS} {task.setting:g} seed {seed}"
        checkpoint = task.checkpoint and task.checkpoint.of(str(seed))
        origin = {"experiment": experiment, "method": method, "setting": task.setting, "seed": seed}
        found = module.run(replace(task, seed=seed, label=label, checkpoint=checkpoint))
        rows += [{**origin, **row} for row in found]
    return rows
