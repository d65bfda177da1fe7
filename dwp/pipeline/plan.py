"""The plan of a configuration: every artifact, its version, its files and its cells."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.experiments.base import ExperimentSettings
from dwp.pipeline import paths
from dwp.pipeline.provenance import Artifact, by_version, refuse_others_in_folders
from dwp.pipeline.report_artifact import ReportArtifact
from dwp.pipeline.shards import numbers, shards


class Plan(ReportArtifact):
    """All artifacts of one configuration, and their files; see `Artifacts`."""

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """Return every artifact of this configuration by version.

        Raises:
            InputError: see `provenance.by_version`.
        """
        return by_version([*self.named, *(trial for trials in self.trials.values() for trial in trials)])

    def refuse_collisions(self) -> None:
        """Refuse versions that begin with the same digits as another's, here or in its folder.

        Raises:
            InputError: there are some.
        """
        refuse_others_in_folders(self.artifacts.values())

    @property
    def named(self) -> list[Artifact]:
        """Return every artifact that has a link in `results/latest`: all but trials.

        Identical ones share a version.
        """
        found = [*map(self.dataset, self.datasets), *self.kernels.values(), *self.methods.values()]
        found += [
            self.report,
            *self.scores.values(),
            *self.tunings.values(),
            *(artifact for sizes in self.priors.values() for artifact in sizes.values()),
        ]
        if self.config.trains_source:
            found.append(self.source)
        return found

    def spec(self, version: str) -> dict:
        """Return the spec of a version of this configuration; see `Artifact.spec`.

        Raises:
            InputError: the version belongs to another configuration.
        """
        if version not in self.artifacts:
            raise InputError(
                f"version {version} is none of this configuration; name its files, not another's"
            )
        return self.artifacts[version].spec

    # Files and cells

    @property
    def with_outliers(self) -> list[str]:
        """Return the names of the experiments that also read the source data set."""
        experiments = self.config.experiments.items()
        return [name for name, settings in experiments if getattr(settings, "outliers", False)]

    @property
    def datasets(self) -> list[str]:
        """Return the names of the data sets that this configuration reads."""
        chosen = self.config.data
        reads_source = self.config.trains_source or self.with_outliers
        names = [
            *map(self.config.data_of, self.config.experiments),
            *([chosen.source] if reads_source else []),
        ]
        return list(dict.fromkeys([*names, *([self.config.tuning_data] if self.tunings else [])]))

    def dataset_file(self, name: str) -> str:
        """Return the file of a data set."""
        return paths.DATA.file("safetensors", version=self.dataset(name).version, name=name)

    def source_files(self, suffix: str = "safetensors") -> list[str]:
        """Return the files of the source networks, one for each shard; with suffix 'csv', their tables."""
        if not self.config.trains_source:
            return []
        settings = self.config.source
        return [
            paths.NETS.file(suffix, version=self.source.version, shard=shard)
            for shard in shards(settings.nets, settings.shard)
        ]

    def kernels_from(self) -> list[str]:
        """Return the files from which kernels are collected."""
        return self.config.kernel_files or self.source_files()

    def kernels_file(self, size: int) -> str:
        """Return the kernel store of a size."""
        return paths.KERNELS.file("h5", version=self.kernels[size].version, size=size)

    def prior_file(self, name: str, size: int, suffix: str = "safetensors") -> str:
        """Return the file of a fitted prior; with suffix 'csv', its training history."""
        return self._prior_file(self.priors[name][size], size, suffix)

    @staticmethod
    def _prior_file(prior: Artifact, size: int, suffix: str = "safetensors") -> str:
        return paths.PRIOR.file(suffix, version=prior.version, name=prior.params["kind"], size=size)

    def scores_file(self, size: int, suffix: str = "csv") -> str:
        """Return the log densities of all priors of a size; with suffix 'samples.csv', their samples."""
        return paths.SCORES.file(suffix, version=self.scores[size].version, size=size)

    def score_inputs(self, size: int) -> dict[str, list[str] | str]:
        """Return the inputs of the scores of a size: `kernels` and fitted `priors`."""
        return {"kernels": self.kernels_file(size), "priors": self._fitted(self.scores[size])}

    def _fitted(self, artifact: Artifact) -> list[str]:
        """Return the files of the fitted priors among an artifact's inputs."""
        fitted = {
            self._prior_file(made, int(role.rpartition("-")[2])): None
            for role, made in artifact.inputs.items()
            if made.stage == "priors"
        }
        return list(fitted)

    def cell_inputs(self, version: str, shard: str) -> dict[str, list[str] | str]:
        """Return the inputs of a cell: `dataset`, `priors`; perhaps `tuning`, `outliers`, `pretrained`."""
        self.spec(version)  # refuses a version of another configuration
        made = self.artifacts[version]
        files: dict[str, list[str] | str] = {
            "dataset": self.dataset_file(made.inputs["dataset"].name),
            "priors": self._fitted(made),
        }
        if "tuning" in made.inputs:
            experiment, method = made.inputs["tuning"].name.split("-")
            files["tuning"] = self.tuning_file(experiment, method, "json")
        if "outliers" in made.inputs:
            files["outliers"] = self.dataset_file(self.config.data.source)
        if "pretrained" in made.inputs:
            members = made.params["method"].get("members", 1)
            wanted = methods.source_nets(members, numbers(shard))
            files["pretrained"] = [
                file
                for file in self.source_files()
                if wanted.intersection(numbers(paths.NETS.fields(file)["shard"]))
            ]
        return files

    @property
    def trial_versions(self) -> str:
        """Return an expression of the versions of all trials; it matches none if nothing is tuned."""
        versions = (trial.version for trials in self.trials.values() for trial in trials)
        return "|".join(versions) or "none"

    @property
    def axes(self) -> list[str]:
        """Return the names of all axes, as in the file names of cells."""
        axes = [experiments.find(name).axis for name in self.config.experiments]
        return list(dict.fromkeys([*axes, paths.ALL_SETTINGS["axis"]]))

    def cells(self, experiment: str) -> list[str]:
        """Return the tables of an experiment: one for each method, setting and shard of seeds.

        An experiment that trains nothing has one table for all settings.
        """
        settings = self.config.experiments[experiment]
        return [
            cell
            for method in settings.methods
            for cell in self._cells_of(experiment, method, settings, self.methods[experiment, method])
        ]

    def trial_cells(self, experiment: str, method: str) -> list[str]:
        """Return the tables of the trials of a method."""
        trials = zip(self.config.trials[experiment][method], self.trials[experiment, method], strict=True)
        cells = [self._cells_of(experiment, method, trial.settings, made) for trial, made in trials]
        return list(dict.fromkeys(cell for of_trial in cells for cell in of_trial))

    def tuning_file(self, experiment: str, method: str, suffix: str = "csv") -> str:
        """Return the trials of a method and their means; with suffix 'json', the chosen settings."""
        version = self.tunings[experiment, method].version
        return paths.TUNING.file(suffix, version=version, experiment=experiment, method=method)

    @staticmethod
    def _cells_of(
        experiment: str, method: str, settings: ExperimentSettings, artifact: Artifact
    ) -> list[str]:
        declared = experiments.find(experiment)
        cells = [paths.ALL_SETTINGS]
        if declared.trains:
            values = [repr(value).removesuffix(".0") for value in getattr(settings, declared.axis)]
            cells = [{"axis": declared.axis, "setting": value} for value in values]
        return [
            paths.CELL.file(
                "csv", experiment=experiment, version=artifact.version, method=method, shard=shard, **cell
            )
            for cell in cells
            for shard in shards(settings.seeds, settings.shard)
        ]

    def report_inputs(self) -> dict[str, list[str]]:
        """Return the report's inputs.

        They are `cells`, `stores`, `priors` and `histories`, perhaps `scores` with `samples`, `nets` and
        `tunings`.
        """
        files = {
            "cells": [path for experiment in self.config.experiments for path in self.cells(experiment)],
            "stores": [self.kernels_file(size) for size in self.config.sizes],
            "priors": self._fitted(self.report),
            "histories": [str(Path(file).with_suffix(".csv")) for file in self._fitted(self.report)],
        }
        if self.scores:
            files["scores"] = [self.scores_file(size) for size in self.scores]
            files["samples"] = [self.scores_file(size, "samples.csv") for size in self.scores]
        if self.tunings:
            files["tunings"] = [self.tuning_file(*key) for key in self.tunings]
        return files | ({"nets": self.source_files("csv")} if self.config.trains_source else {})

    def files(self) -> list[str]:
        """Return every file of this configuration, with its manifest.

        All are targets, because Snakemake does not notice a missing manifest if only the result is a target.
        """
        named = [*map(self.dataset_file, self.datasets), *self.source_files()]
        named += [file for files in self.report_inputs().values() for file in files]
        for key in self.tunings:
            named += [*self.trial_cells(*key), self.tuning_file(*key, suffix="json")]
        manifests = dict.fromkeys(str(paths.manifest(path)) for path in named)
        report = [item.path for item in self.report_files()] + [paths.MANIFEST]
        return [*named, *manifests, *map(self.report.path, report)]

    def stale(self, files: Iterable[str]) -> list[str]:
        """Return the existing manifests among some files that do not match this configuration.

        Their parameters, inputs or code differ, or they are damaged. A file that does not exist is missing,
        not stale.
        """
        return [
            file
            for file in files
            if file.endswith(paths.MANIFEST) and os.path.exists(file) and not self.is_current(file)
        ]

    def is_current(self, manifest: str) -> bool:
        """Return whether a manifest can be read and has the parameters, inputs and code of its artifact."""
        artifact = self.artifacts.get(paths.version(manifest))
        return artifact is not None and artifact.made(manifest)
