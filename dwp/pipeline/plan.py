"""What a configuration means: every artifact, its version, its files and its cells."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.nn.spec import size_label
from dwp.pipeline.artifacts import SCRIPTS, Artifacts
from dwp.pipeline.provenance import Artifact
from dwp.pipeline.shards import numbers, shards
from dwp.report.catalogue import Output, report_files


class Plan(Artifacts):
    """All artifacts of one configuration, and the files that they consist of; see `Artifacts`."""

    @cached_property
    def report(self) -> Artifact:
        """Return the report, which depends on everything that it shows."""
        inputs = {f"kernels-{size}": artifact for size, artifact in self.kernels.items()}
        inputs |= {
            f"{name}-{size}": self.priors[name][size] for name in self.priors for size in self.priors[name]
        }
        inputs |= {f"scores-{size}": artifact for size, artifact in self.scores.items()}
        inputs |= {
            f"{experiment}-{method}": artifact for (experiment, method), artifact in self.methods.items()
        }
        params = {
            "style": self.config["report"],
            "source": self.config["data"]["source"] if self.trains_source else "",
            "target": self.config["data"]["target"],
            # What is shown, in order; the versions are among the inputs.
            "nets": [self.config["source"][key] for key in ("nets", "shard")] if self.trains_source else [],
            "priors": [[name, *sizes] for name, sizes in self.priors.items()],
            "experiments": [
                [name, list(settings["methods"]), settings[experiments.find(name).AXIS]]
                + [settings[key] for key in ("seeds", "shard")]
                for name, settings in self.config["experiments"].items()
            ],
        }
        return Artifact("report", params, inputs, (SCRIPTS / "make_report.py",))

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """Return every artifact of this configuration by version."""
        return {artifact.version: artifact for artifact in self.named}

    @property
    def named(self) -> list[Artifact]:
        """Return every artifact of this configuration; two that are made alike share a version."""
        found = [*map(self.dataset, self.datasets), *self.kernels.values(), *self.methods.values()]
        found += [
            self.report,
            *self.scores.values(),
            *(artifact for sizes in self.priors.values() for artifact in sizes.values()),
        ]
        if self.trains_source:
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
        """Return the names of the experiments that read the source data set too."""
        return [name for name, settings in self.config["experiments"].items() if settings.get("outliers")]

    @property
    def datasets(self) -> list[str]:
        """Return the names of the data sets that something here reads."""
        chosen = self.config["data"]
        reads_source = self.trains_source or self.with_outliers
        return list({chosen["target"]: 0} | ({chosen["source"]: 0} if reads_source else {}))

    def dataset_file(self, name: str) -> str:
        """Return a data set's file."""
        return self.dataset(name).path(f"{name}.safetensors")

    def source_files(self, suffix: str = "safetensors") -> list[str]:
        """Return the shards of source nets, or with suffix 'csv' their tables."""
        if not self.trains_source:
            return []
        settings = self.config["source"]
        return [
            self.source.path(f"nets-{shard}.{suffix}")
            for shard in shards(settings["nets"], settings["shard"])
        ]

    def kernels_from(self) -> list[str]:
        """Return the files that kernels are collected from."""
        return self.config["kernels"]["files"] or self.source_files()

    def kernels_file(self, size: int) -> str:
        """Return the kernel store of a size."""
        return self.kernels[size].path(f"kernels-{size_label(size)}.h5")

    def prior_file(self, name: str, size: int, suffix: str = "safetensors") -> str:
        """Return a fitted prior's file, or with suffix 'csv' the history of its training."""
        return self.priors[name][size].path(f"{name}-{size_label(size)}.{suffix}")

    def score_inputs(self, size: int) -> dict[str, list[str] | str]:
        """Return the files that the scores of a size are made from: `kernels` and fitted `priors`."""
        scored = [name for name in self.priors if f"{name}-{size}" in self.scores[size].inputs]
        return {
            "kernels": self.kernels_file(size),
            "priors": [self.prior_file(name, size) for name in scored],
        }

    def cell_inputs(self, version: str, shard: str) -> dict[str, list[str] | str]:
        """Return the files that a cell reads: `dataset`, `priors`; perhaps `outliers`, `pretrained`."""
        self.spec(version)  # refuses one of another configuration
        experiment, method = next(key for key, made in self.methods.items() if made.version == version)
        made = self.methods[experiment, method]
        settings = self.config["experiments"][experiment]
        needed = methods.priors_needed(settings["methods"][method], settings["network"])
        files: dict[str, list[str] | str] = {
            "dataset": self.dataset_file(self.config["data"]["target"]),
            "priors": [self.prior_file(name, size) for name, size in needed if name in self.priors],
        }
        if "outliers" in made.inputs:
            files["outliers"] = self.dataset_file(self.config["data"]["source"])
        if "pretrained" in made.inputs:
            # The nets of the same numbers.
            nets = {file: numbers(Path(file).stem.removeprefix("nets-")) for file in self.source_files()}
            files["pretrained"] = [file for file in nets if set(nets[file]) & set(numbers(shard))]
        return files

    def cells(self, experiment: str) -> list[str]:
        """Return the tables of an experiment: one for each method, setting and shard of seeds.

        All settings share one where there is no training.
        """
        settings = self.config["experiments"][experiment]
        axis = experiments.find(experiment).AXIS
        cells = [f"{axis}-{setting!r}" for setting in settings[axis]]
        return [
            self.methods[experiment, method].path(f"{method}_{cell}_seeds-{shard}.csv")
            for method in settings["methods"]
            for cell in (cells if experiments.trains(experiment) else ["settings-all"])
            for shard in shards(settings["seeds"], settings["shard"])
        ]

    def report_inputs(self) -> dict[str, list[str]]:
        """Return what the report reads: `cells`, `stores`, `priors`, `histories` and perhaps `nets`."""
        fitted = [(name, size) for name, sizes in self.priors.items() for size in sizes]
        files = {
            "cells": [path for experiment in self.config["experiments"] for path in self.cells(experiment)],
            "stores": [self.kernels_file(size) for size in self.sizes],
            "priors": [self.prior_file(*prior) for prior in fitted],
            "histories": [self.prior_file(*prior, suffix="csv") for prior in fitted],
        }
        if self.scores:
            files["scores"] = [made.path(f"scores-{made.name}.csv") for made in self.scores.values()]
        return files | ({"nets": self.source_files("csv")} if self.trains_source else {})

    def files(self) -> list[str]:
        """Return every file of this configuration, with its manifest.

        All are targets: Snakemake does not miss a file of which only the results are asked for.
        """
        named = [*map(self.dataset_file, self.datasets), *self.source_files()]
        named += [path for paths in self.report_inputs().values() for path in paths]
        manifests = dict.fromkeys(str(Path(path).with_suffix(".manifest.json")) for path in named)
        report = [item.path for item in self.report_files()] + ["manifest.json"]
        return [*named, *manifests, *map(self.report.path, report)]

    def stale(self, files: Iterable[str]) -> list[str]:
        """Return which of some files of this configuration are manifests that do not say what it does.

        Other parameters, inputs or code made what they stand for, or nobody can tell, as they
        are damaged. A file that is not there is not stale but missing.
        """
        return [
            file
            for file in files
            if file.endswith("manifest.json")
            and os.path.exists(file)
            and not self.artifacts[Path(file).parent.name].made(file)
        ]

    def report_files(self) -> list[Output]:
        """Return the tables and figures, with their captions."""
        kinds = {
            name: dict.fromkeys(made, self.config["priors"][name]["kind"])
            for name, made in self.priors.items()
        }
        return report_files(
            self.config["experiments"],
            self.sizes,
            kinds,
            nets=self.trains_source,
            scores=bool(self.scores),
            outliers=self.with_outliers,
        )
