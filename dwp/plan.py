"""What a configuration means: every artifact, its version, its files and its cells.

Known before anything runs, without reading any result. Lists and counts (nets,
seeds, settings, methods) say which cells are wanted; they are not part of a version.
"""

from functools import cached_property
from pathlib import Path

from dwp import config as configuration
from dwp import data, experiments, methods
from dwp.contents import Output, report_files
from dwp.errors import InputError
from dwp.files import sha256
from dwp.networks import kernel_sizes, square
from dwp.priors import find
from dwp.provenance import ROOT, Artifact
from dwp.shards import numbers, shards

SCRIPTS = ROOT / "workflow" / "scripts"
EXPERIMENTS = ROOT / "dwp" / "experiments"


class Plan:
    """All artifacts of one configuration.

    Args:
        config: a complete configuration, already held against the schema.

    Raises:
        InputError: see `dwp.config.check`; or a local data file is missing or damaged.
    """

    def __init__(self, config: dict) -> None:
        self.config = configuration.without_removed(config)
        configuration.check(self.config)
        self._datasets  # noqa: B018 - reads local files' headers and checksums: fail before the first job

    # Artifacts, in the order in which they are made

    def dataset(self, name: str) -> Artifact:
        """Return a data set; local files count by their content, not their place."""
        return self._datasets[name]

    @cached_property
    def _datasets(self) -> dict[str, Artifact]:
        chosen = self.config["data"]
        return {
            name: Artifact(
                "data",
                data.identity(name, data_root=self.config["data_root"], options=chosen["options"].get(name)),
                modules=(SCRIPTS / "build_data.py",),
                name=name,
            )
            for name in dict.fromkeys((chosen["source"], chosen["target"]))
        }

    @cached_property
    def source(self) -> Artifact:
        """Return the source nets; how many there are is not part of the version."""
        settings = self.config["source"]
        params = {key: settings[key] for key in ("network", "l2")} | {"schedule": self._schedule(settings)}
        dataset = self.dataset(self.config["data"]["source"])
        return Artifact("source", params, {"dataset": dataset}, (SCRIPTS / "train_source.py",))

    @cached_property
    def kernels(self) -> dict[int, Artifact]:
        """Return the kernel stores by size."""
        settings = self.config["kernels"]
        artifacts = {}
        for size in self.sizes:
            threshold = settings["threshold"]
            params = {
                "size": size,
                "threshold": threshold[square(size)] if isinstance(threshold, dict) else threshold,
                "test_fraction": settings["test_fraction"],
            }
            if settings["files"]:
                params["files"] = [sha256(file) for file in settings["files"]]
                inputs = {}
            else:
                params["nets"] = self.config["source"]["nets"]
                inputs = {"source": self.source}
            artifacts[size] = Artifact(
                "kernels", params, inputs, (SCRIPTS / "collect_kernels.py",), square(size)
            )
        return artifacts

    @cached_property
    def priors(self) -> dict[str, dict[int, Artifact]]:
        """Return the fitted priors by name and kernel size."""
        fitted: dict[str, dict[int, Artifact]] = {}
        for name, settings in self.config["priors"].items():
            if not find(settings["kind"]).fitted:
                continue
            fitted[name] = {}
            for size in self.sizes:
                if "sizes" in settings and square(size) not in settings["sizes"]:
                    continue
                special = settings.get("sizes", {}).get(square(size), {})
                own = {key: value for key, value in {**settings, **special}.items() if key != "sizes"}
                if "schedule" in settings:
                    own["schedule"] = self._schedule(settings) | special.get("schedule", {})
                modules = (SCRIPTS / "fit_prior.py", _prior_module(settings["kind"]))
                fitted[name][size] = Artifact(
                    "priors", own, {"kernels": self.kernels[size]}, modules, f"{name}-{square(size)}"
                )
        return fitted

    @cached_property
    def scores(self) -> dict[int, Artifact]:
        """Return the scores by kernel size, of all priors that have a density, where there are any."""
        scored = {
            name: settings
            for name, settings in self.config["priors"].items()
            if find(settings["kind"]).has_density()
        }
        analytic = {name: settings for name, settings in scored.items() if name not in self.priors}
        artifacts = {}
        for size in self.sizes:
            fitted = {name: self.priors[name][size] for name in scored if size in self.priors.get(name, {})}
            if fitted or analytic:
                modules = dict.fromkeys(_prior_module(scored[name]["kind"]) for name in (*fitted, *analytic))
                inputs = {f"{name}-{size}": artifact for name, artifact in fitted.items()}
                artifacts[size] = Artifact(
                    "scores",
                    {**self.config["scores"], "priors": analytic},
                    {"kernels": self.kernels[size], **inputs},
                    (SCRIPTS / "score_priors.py", *modules),
                    square(size),
                )
        return artifacts

    @cached_property
    def methods(self) -> dict[tuple[str, str], Artifact]:
        """Return an artifact for each experiment and method, which depends on the priors it uses alone."""
        return {
            (experiment, method): self._method(experiment, method)
            for experiment, settings in self.config["experiments"].items()
            for method in settings["methods"]
        }

    def _method(self, experiment: str, method: str) -> Artifact:
        settings = self.config["experiments"][experiment]
        counts = ["seeds", "shard", "methods"]
        if experiments.trains(experiment):
            counts.append(experiments.find(experiment).AXIS)
        common = {key: value for key, value in settings.items() if key not in counts}
        if "schedule" in settings:
            common["schedule"] = self._schedule(settings)
        choices = settings["methods"][method]
        inputs = {"dataset": self.dataset(self.config["data"]["target"])}
        if settings.get("outliers"):
            inputs["outliers"] = self.dataset(self.config["data"]["source"])
        if methods.is_pretrained(choices):
            inputs["pretrained"] = self.source
        analytic = {}
        modules = {SCRIPTS / "run_experiment.py": None, EXPERIMENTS / f"{experiment}.py": None}
        for name, size in methods.priors_needed(choices, settings["network"]):
            modules[_prior_module(self.config["priors"][name]["kind"])] = None
            if name in self.priors:
                inputs[f"{name}-{size}"] = self.priors[name][size]
            else:
                analytic[name] = self.config["priors"][name]
        params = {"settings": common, "method": choices, "priors": analytic}
        return Artifact(experiment, params, inputs, tuple(modules), method)

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
            # In order, and by name alone: their versions are among the inputs.
            "files": {
                kind: [Path(file).name for file in files] for kind, files in self.report_inputs().items()
            },
        }
        return Artifact("report", params, inputs, (SCRIPTS / "make_report.py",))

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """Return every artifact of this configuration by version."""
        found = [*map(self.dataset, self.datasets), *self.kernels.values(), *self.methods.values()]
        found += [
            self.report,
            *self.scores.values(),
            *(artifact for sizes in self.priors.values() for artifact in sizes.values()),
        ]
        if self.trains_source:
            found.append(self.source)
        return {artifact.version: artifact for artifact in found}

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
    def trains_source(self) -> bool:
        """Return whether kernels come from nets trained here."""
        return not self.config["kernels"]["files"]

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
        return self.kernels[size].path(f"kernels-{square(size)}.h5")

    def prior_file(self, name: str, size: int, suffix: str = "safetensors") -> str:
        """Return a fitted prior's file, or with suffix 'csv' the history of its training."""
        return self.priors[name][size].path(f"{name}-{square(size)}.{suffix}")

    def score_inputs(self, size: int) -> dict[str, list[str] | str]:
        """Return the files that the scores of a size are made from: `kernels` and fitted `priors`."""
        scored = [name for name in self.priors if f"{name}-{size}" in self.scores[size].inputs]
        return {
            "kernels": self.kernels_file(size),
            "priors": [self.prior_file(name, size) for name in scored],
        }

    def cell_inputs(self, version: str, shard: str) -> dict[str, list[str] | str]:
        """Return the files that a cell reads: `dataset`, `priors`; perhaps `outliers`, `pretrained`."""
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
        cells = [f"{axis}-{setting:g}" for setting in settings[axis]]
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

    @cached_property
    def sizes(self) -> list[int]:
        """Return the kernel sizes that priors are wanted for: those of the experiments' networks."""
        networks = [settings["network"] for settings in self.config["experiments"].values()]
        return sorted({size for network in networks for size in kernel_sizes(network)}, reverse=True)

    def _schedule(self, settings: dict) -> dict:
        return {**settings["schedule"], "precision": self.config["precision"]}


def _prior_module(kind: str) -> Path:
    return ROOT / "dwp" / "priors" / f"{kind}.py"
