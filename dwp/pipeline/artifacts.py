"""Artifacts of a configuration: the parameters, inputs and code that determine each."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from dwp.experiments import _tuning as tuning
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.experiments.base import ExperimentSettings, Method
from dwp.nn.spec import Network, size_label
from dwp.pipeline import local_data
from dwp.pipeline.config.checks import check, check_examples, check_tuning_examples
from dwp.pipeline.config.model import Config
from dwp.pipeline.config.trials import Trial, overridden
from dwp.pipeline.provenance import Artifact
from dwp.pipeline.roles import assign_roles
from dwp.pipeline.typed import dump
from dwp.settings import marked
from dwp.training.schedule import Schedule

STAGES = "dwp.pipeline.stages"


class Artifacts:
    """All artifacts of one configuration except the report, in the order in which they are made.

    They are known before anything runs, without reading any result. Lists and counts (nets, seeds,
    settings, methods) select the cells to compute; they are not part of a version.

    Args:
        config: a complete configuration.

    Raises:
        InputError: see `dwp.pipeline.config.checks`; or a local data file is missing or damaged.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        check(config)
        # Reads headers and checksums of changed local files, so that errors appear before the first job.
        chosen = config.data
        local = {
            name: local_data.dataset(name, config.data_root, chosen.options.get(name))
            for name in dict.fromkeys(
                (chosen.source, chosen.target, config.tuning_data, *map(config.data_of, config.experiments))
            )
        }
        check_examples(config, {name: found["train_size"] for name, found in local.items()})
        if chosen.tuning is not None:
            check_tuning_examples(config, local[chosen.tuning]["train_size"])
        self._datasets = {
            name: Artifact("data", found["identity"], modules=(f"{STAGES}.data",), name=name)
            for name, found in local.items()
        }

    def dataset(self, name: str) -> Artifact:
        """Return a data set; local files are identified by content, not by path."""
        return self._datasets[name]

    @cached_property
    def source(self) -> Artifact:
        """Return the source networks; their number is not part of the version."""
        inputs = {"dataset": self.dataset(self.config.data.source)}
        return Artifact("source", self._params(self.config.source), inputs, (f"{STAGES}.source",))

    @cached_property
    def kernels(self) -> dict[int, Artifact]:
        """Return the kernel stores by kernel size."""
        settings = self.config.kernels
        artifacts = {}
        for size in self.config.sizes:
            params: dict[str, Any] = {
                "size": size,
                "threshold": self.config.threshold(size),
                "test_fraction": settings.test_fraction,
            }
            if self.config.trains_source:
                params["nets"] = self.config.source.nets
                inputs = {"source": self.source}
            else:
                params["files"] = [local_data.checksum(file) for file in self.config.kernel_files]
                inputs = {}
            artifacts[size] = Artifact("kernels", params, inputs, (f"{STAGES}.kernels",), size_label(size))
        return artifacts

    @cached_property
    def priors(self) -> dict[str, dict[int, Artifact]]:
        """Return the fitted priors by name and kernel size."""
        return {
            name: {
                size: Artifact(
                    "priors",
                    self._prior_params(name, size),
                    {"kernels": self.kernels[size]},
                    (f"{STAGES}.prior", _prior_module(prior.kind)),
                    f"{name}-{size_label(size)}",
                )
                for size in filter(prior.is_for, self.config.sizes)
            }
            for name, prior in self.config.priors.items()
            if prior.facts.fitted
        }

    @cached_property
    def scores(self) -> dict[int, Artifact]:
        """Return the scores of all priors with a density or samples, by kernel size.

        Sizes without a density are left out.
        """
        artifacts = {}
        for size in self.config.sizes:
            roles = self.score_roles(size)
            if not any(self.config.priors[name].facts.has_density for name in roles):
                continue
            inputs = {
                f"{role}-{size}": self.priors[name][size]
                for name, role in roles.items()
                if name in self.priors
            }
            analytic = {
                role: self._prior_params(name, size)
                for name, role in roles.items()
                if name not in self.priors
            }
            modules = dict.fromkeys(_prior_module(self.config.priors[name].kind) for name in roles)
            artifacts[size] = Artifact(
                "scores",
                {**dump(self.config.scores), "priors": analytic},
                {"kernels": self.kernels[size], **inputs},
                (f"{STAGES}.scores", *modules),
                size_label(size),
            )
        return artifacts

    def score_roles(self, size: int) -> dict[str, str]:
        """Return the roles of the priors with a density or samples over kernels of a size, by name."""
        return self._roles(
            (name, size)
            for name, prior in self.config.priors.items()
            if (prior.facts.has_density or prior.facts.has_samples) and prior.is_for(size)
        )

    @cached_property
    def methods(self) -> dict[tuple[str, str], Artifact]:
        """Return an artifact for each experiment and method; it depends only on the priors that it uses."""
        return {
            (experiment, method): self._method(experiment, method)
            for experiment, settings in self.config.experiments.items()
            for method in settings.methods
        }

    @cached_property
    def trials(self) -> dict[tuple[str, str], list[Artifact]]:
        """Return the artifacts of the trials of each tuned method: cells of the experiment on other data."""
        return {
            (experiment, method): [self._trial(experiment, trial) for trial in trials]
            for experiment, tuned in self.config.trials.items()
            for method, trials in tuned.items()
        }

    @cached_property
    def tunings(self) -> dict[tuple[str, str], Artifact]:
        """Return the choice of settings of each tuned method, made from its trials."""
        return {key: self._tuning(*key) for key in self.trials}

    def _method(self, experiment: str, name: str) -> Artifact:
        settings = overridden(experiment, experiment, self.config.experiments[experiment], name)
        inputs = {"dataset": self.dataset(self.config.data_of(experiment))}
        if getattr(settings, "outliers", False):
            inputs["outliers"] = self.dataset(self.config.data.source)
        if (experiment, name) in self.tunings:
            inputs["tuning"] = self.tunings[experiment, name]
        return self._cells(experiment, name, settings, self._used(experiment, name), inputs)

    def _used(self, experiment: str, name: str) -> list[Method]:
        """Return a method with all settings that it may run with: its own, or those of its trials."""
        if trials := self.config.trials[experiment].get(name):
            return [trial.method for trial in trials]
        return [self.config.experiments[experiment].methods[name]]

    def method_roles(self, experiment: str, name: str) -> dict[str, str]:
        """Return the roles of the priors that a method may use, by name; see `assign_roles`."""
        network = self._network(self.config.experiments[experiment], name)
        return self._roles(_needed(self._used(experiment, name), network))

    def _network(self, settings: ExperimentSettings, name: str) -> Network:
        is_pretrained = methods.is_pretrained(settings.methods[name])
        return self.config.source.network if is_pretrained else settings.network

    def _trial(self, experiment: str, trial: Trial) -> Artifact:
        (name,) = trial.settings.methods
        inputs = {"dataset": self.dataset(self.config.tuning_data)}
        images = "all" if self.config.data.tuning is not None else "test"
        return self._cells(experiment, name, trial.settings, [trial.method], inputs, images)

    def _tuning(self, experiment: str, name: str) -> Artifact:
        declared, trials = experiments.find(experiment), self.config.trials[experiment][name]
        settings, tasks = self.config.experiments[experiment], trials[0].settings
        metric, roles = declared.metric(settings.tuning.metric), self.method_roles(experiment, name)
        params = {
            "metric": metric.name,
            "better": metric.better,
            # The contents; their versions are among the inputs.
            "tasks": [list(getattr(tasks, declared.axis)), tasks.seeds],
            "trials": [methods.with_names(trial.chosen, roles) for trial in trials],
            "combinations": tuning.combinations_in(tuning.space(settings, name)),
        }
        inputs = {f"trial-{number:03d}": made for number, made in enumerate(self.trials[experiment, name])}
        return Artifact("tuning", params, inputs, (f"{STAGES}.tuning",), f"{experiment}-{name}")

    def _cells(
        self,
        experiment: str,
        name: str,
        settings: ExperimentSettings,
        used: Sequence[Method],
        inputs: dict[str, Artifact],
        images: str = "",
    ) -> Artifact:
        """Return the artifact of all cells of a method.

        Args:
            experiment, name: names of the experiment and the method.
            settings: settings of the experiment.
            used: the method, with all settings that it may run with.
            inputs: its inputs but for priors and source networks.
            images: for trials, the images of the data set to use: 'all', or 'test' for halves of those.
        """
        declared, method = experiments.find(experiment), settings.methods[name]
        if any(map(methods.is_pretrained, used)):
            inputs["pretrained"] = self.source
        settings = replace(settings, network=self._network(settings, name))
        # The other declarations only affect how results are shown.
        computing = (declared.run, declared.settings, declared.method)
        modules = dict.fromkeys(f"{part.__module__}:{part.__qualname__}" for part in computing)
        modules[f"{STAGES}.experiment"] = None
        needed = _needed(used, settings.network)
        roles, analytic = self._roles(needed), {}
        for prior, size in needed:
            modules[_prior_module(self.config.priors[prior].kind)] = None
            if prior in self.priors:
                inputs[f"{roles[prior]}-{size}"] = self.priors[prior][size]
            else:
                analytic[roles[prior]] = self._prior_params(prior, size)
        # In an experiment that trains, each setting has separate jobs.
        left_out = ["tuning", *([declared.axis] if declared.trains else [])]
        shared = self._params(settings, left_out)
        elsewhere = ("space", "override", "title")
        own = {key: value for key, value in dump(method).items() if key not in elsewhere}
        own = methods.with_names(own, roles)
        if "tuning" in inputs:
            # The job takes them from there.
            space = tuning.space(settings, name)
            shared, own = tuning.without(declared, shared, own, space)
        params: dict[str, Any] = {"settings": shared, "method": own, "priors": analytic}
        if images:
            params["trial_images"] = images
        return Artifact(experiment, params, inputs, tuple(modules), name)

    def _roles(self, needed: Iterable[tuple[str, int]]) -> dict[str, str]:
        """Return the role of each prior by name, see `assign_roles`; `needed` has names and kernel sizes."""
        contents: dict[str, list] = {}
        for name, size in needed:
            fitted = self.priors[name][size].digest if name in self.priors else self._prior_params(name, size)
            contents.setdefault(name, []).append([size, fitted])
        kinds = {name: self.config.priors[name].kind for name in contents}
        return assign_roles(
            {name: (kinds[name], json.dumps(found, sort_keys=True)) for name, found in contents.items()}
        )

    def _prior_params(self, name: str, size: int) -> dict:
        prior = self.config.priors[name]
        return {"kind": prior.kind, **self._params(prior.of(size))}

    def _params(self, settings: Any, without: Iterable[str] = ()) -> dict:
        """Return settings as plain values, without those that only set the number of results or jobs."""
        if isinstance(schedule := getattr(settings, "schedule", None), Schedule):
            settings = replace(settings, schedule=self._in_precision(schedule))
        left_out = {*marked(type(settings), "counts"), *without}
        return {key: value for key, value in dump(settings).items() if key not in left_out}

    def _in_precision(self, schedule: Schedule) -> Schedule:
        """Return a schedule in the precision of the configuration, unless the schedule sets one."""
        own = schedule.precision != "auto"
        return schedule if own else replace(schedule, precision=self.config.precision)


def _needed(used: Iterable[Method], network: Network) -> list[tuple[str, int]]:
    """Return name and kernel size of each prior that a method with any of some settings uses."""
    return list(dict.fromkeys(need for one in used for need in methods.priors_needed(one, network)))


def _prior_module(kind: str) -> str:
    return f"dwp.priors.{kind}"
