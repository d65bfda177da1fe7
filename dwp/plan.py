"""What a configuration means: every artifact, its version, its files and its cells.

Known before anything runs, without reading any result. Lists and counts (nets,
seeds, settings, methods) say which cells are wanted; they are not part of a version.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from dwp import config as configuration
from dwp import data, experiments
from dwp.errors import InputError
from dwp.files import sha256
from dwp.provenance import ROOT, Artifact
from dwp.report import Output, report_files

SCRIPTS = ROOT / "workflow" / "scripts"
CLASSICAL = ("xavier", "he")


class Plan:
    """All artifacts of one configuration.

    Args:
        config: a complete configuration, already held against the schema.

    Raises:
        InputError: the parts do not fit together (see `check`).
    """

    def __init__(self, config: dict) -> None:
        self.config = configuration.without_removed(config)
        self.check()
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
                "threshold": threshold[_square(size)] if isinstance(threshold, dict) else threshold,
                "test_fraction": settings["test_fraction"],
            }
            if settings["files"]:
                params["files"] = [sha256(file) for file in settings["files"]]
                inputs = {}
            else:
                params["nets"] = self.config["source"]["nets"]
                inputs = {"source": self.source}
            artifacts[size] = Artifact(
                "kernels", params, inputs, (SCRIPTS / "collect_kernels.py",), _square(size)
            )
        return artifacts

    @cached_property
    def priors(self) -> dict[str, dict[int, Artifact]]:
        """Return the fitted priors by name and kernel size."""
        fitted: dict[str, dict[int, Artifact]] = {}
        for name, settings in self.config["priors"].items():
            if not self._is_fitted(settings):
                continue
            fitted[name] = {}
            for size in self.sizes:
                if "sizes" in settings and _square(size) not in settings["sizes"]:
                    continue
                special = settings.get("sizes", {}).get(_square(size), {})
                own = {key: value for key, value in {**settings, **special}.items() if key != "sizes"}
                if "schedule" in settings:
                    own["schedule"] = self._schedule(settings) | special.get("schedule", {})
                modules = (SCRIPTS / "fit_prior.py", _prior_module(settings["kind"]))
                fitted[name][size] = Artifact(
                    "priors", own, {"kernels": self.kernels[size]}, modules, f"{name}-{_square(size)}"
                )
        return fitted

    @cached_property
    def methods(self) -> dict[tuple[str, str], Artifact]:
        """Return an artifact for each experiment and method; a method depends on the priors it uses and no other."""
        target = self.dataset(self.config["data"]["target"])
        artifacts = {}
        for experiment, settings in self.config["experiments"].items():
            axis = experiments.find(experiment).AXIS
            common = {
                key: value
                for key, value in settings.items()
                if key not in (axis, "seeds", "shard", "methods")
            }
            common["schedule"] = self._schedule(settings)
            for method, choices in settings["methods"].items():
                inputs = {"dataset": target}
                analytic = {}
                modules = [SCRIPTS / "run_experiment.py", ROOT / "dwp" / "experiments" / f"{experiment}.py"]
                for name in _prior_names(choices):
                    modules.append(_prior_module(self.config["priors"][name]["kind"]))
                    if name in self.priors:
                        sizes = self._network_sizes(settings["network"])
                        inputs |= {f"{name}-{size}": self.priors[name][size] for size in sizes}
                    else:
                        analytic[name] = self.config["priors"][name]
                params = {"settings": common, "method": choices, "priors": analytic}
                artifacts[experiment, method] = Artifact(experiment, params, inputs, tuple(modules), method)
        return artifacts

    @cached_property
    def report(self) -> Artifact:
        """Return the report, which depends on everything that it shows."""
        inputs = {f"kernels-{size}": artifact for size, artifact in self.kernels.items()}
        inputs |= {
            f"{name}-{size}": self.priors[name][size] for name in self.priors for size in self.priors[name]
        }
        inputs |= {
            f"{experiment}-{method}": artifact for (experiment, method), artifact in self.methods.items()
        }
        params = {
            "style": self.config["report"],
            "source": self.config["data"]["source"] if self.trains_source else "",
            "target": self.config["data"]["target"],
            "files": self.report_inputs(),
        }
        return Artifact("report", params, inputs, (SCRIPTS / "make_report.py",))

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """Return every artifact of this configuration by version."""
        found = [*self._datasets.values(), *self.kernels.values(), *self.methods.values(), self.report]
        found += [artifact for sizes in self.priors.values() for artifact in sizes.values()]
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
        return self.kernels[size].path(f"kernels-{_square(size)}.h5")

    def prior_file(self, name: str, size: int, suffix: str = "safetensors") -> str:
        """Return a fitted prior's file, or with suffix 'csv' the history of its training."""
        return self.priors[name][size].path(f"{name}-{_square(size)}.{suffix}")

    def method_inputs(self, version: str) -> dict[str, list[str] | str]:
        """Return the files that a method's cells read: `dataset` and `priors`."""
        (experiment, method), artifact = next(
            item for item in self.methods.items() if item[1].version == version
        )
        sizes = self._network_sizes(self.config["experiments"][experiment]["network"])
        names = [name for name in _prior_names(self.config["experiments"][experiment]["methods"][method])]
        priors = [self.prior_file(name, size) for name in names if name in self.priors for size in sizes]
        return {"dataset": self.dataset_file(self.config["data"]["target"]), "priors": priors}

    def cells(self, experiment: str) -> list[str]:
        """Return the tables of an experiment: one for each method, setting and shard of seeds."""
        settings = self.config["experiments"][experiment]
        axis = experiments.find(experiment).AXIS
        return [
            self.methods[experiment, method].path(f"{method}_{axis}-{setting:g}_seeds-{shard}.csv")
            for method in settings["methods"]
            for setting in settings[axis]
            for shard in shards(settings["seeds"], settings["shard"])
        ]

    def report_inputs(self) -> dict[str, list[str]]:
        """Return what the report reads: `cells`, `stores`, `priors`, `histories` and, if trained here, `nets`."""
        fitted = [(name, size) for name, sizes in self.priors.items() for size in sizes]
        files = {
            "cells": [path for experiment in self.config["experiments"] for path in self.cells(experiment)],
            "stores": [self.kernels_file(size) for size in self.sizes],
            "priors": [self.prior_file(*prior) for prior in fitted],
            "histories": [self.prior_file(*prior, suffix="csv") for prior in fitted],
        }
        return files | ({"nets": self.source_files("csv")} if self.trains_source else {})

    def report_files(self) -> list[Output]:
        """Return the tables and figures, with their captions."""
        kinds = {name: self.config["priors"][name]["kind"] for name in self.priors}
        return report_files(self.config["experiments"], self.sizes, kinds, nets=self.trains_source)

    @cached_property
    def sizes(self) -> list[int]:
        """Return the kernel sizes that priors are wanted for: those of the experiments' networks."""
        networks = [settings["network"] for settings in self.config["experiments"].values()]
        return sorted({size for network in networks for size in self._network_sizes(network)}, reverse=True)

    # Checks that need more than the schema

    def check(self) -> None:
        """Refuse what fits the schema but not together, naming the key and the value."""
        config = self.config
        if config["data_root"] is not None and not Path(config["data_root"]).is_dir():
            raise InputError(
                f"config: data_root: there is no folder {config['data_root']}; give one, or null"
            )
        for file in config["kernels"]["files"] or []:
            if not Path(file).is_file():
                raise InputError(f"config: kernels.files: there is no file {file}")
        threshold = config["kernels"]["threshold"]
        available = self._network_sizes(config["source"]["network"])
        for experiment, settings in config["experiments"].items():
            experiments.find(experiment)
            for size in self._network_sizes(settings["network"]):
                where = f"config: experiments.{experiment}.network has {_square(size)} kernels"
                if self.trains_source and size not in available:
                    have = ", ".join(map(_square, available))
                    raise InputError(
                        f"{where}, but source.network only {have}; no prior can be fitted to that size"
                    )
                if isinstance(threshold, dict) and _square(size) not in threshold:
                    raise InputError(f"{where}, but kernels.threshold names only {', '.join(threshold)}")
            for method, choices in settings["methods"].items():
                self._check_method(
                    f"config: experiments.{experiment}.methods.{method}", choices, settings["network"]
                )
        self._check_networks()

    def _check_method(self, where: str, choices: dict, network: dict) -> None:
        known = self.config["priors"]
        for name in _prior_names(choices):
            if name not in known:
                raise InputError(
                    f"{where}: {name!r} is not known; the priors are {', '.join(known)}; "
                    f"init.from may also be {' or '.join(CLASSICAL)}"
                )
            prior = known[name]
            for size in self._network_sizes(network):
                if "sizes" in prior and _square(size) not in prior["sizes"]:
                    raise InputError(
                        f"{where}: prior {name!r} is not fitted to {_square(size)} kernels, "
                        f"which the network has; priors.{name}.sizes has {', '.join(prior['sizes'])}"
                    )
        if choices.get("posterior", "none") != "none" and "prior" not in choices:
            raise InputError(f"{where}.prior: missing; a Bayesian method needs one of {', '.join(known)}")
        prior = known.get(choices.get("prior"), {})
        kingma = prior.get("kind") == "log_uniform" and prior.get("approximation", "kingma") == "kingma"
        if kingma and choices["posterior"] != "truncated_alpha":
            raise InputError(
                f"{where}.posterior: {choices['posterior']!r} does not go with the approximation 'kingma', which "
                "holds for α <= 1; use truncated_alpha, or approximation: molchanov"
            )

    def _check_networks(self) -> None:
        import torch

        from dwp.networks import build

        chosen = self.config["data"]
        networks = [("source", chosen["source"], self.config["source"]["network"])]
        networks += [
            (f"experiments.{name}", chosen["target"], settings["network"])
            for name, settings in self.config["experiments"].items()
        ]
        with torch.device("meta"):
            for where, name, network in networks:
                try:
                    build(network, data.image_shape(name), 10)
                except InputError as error:
                    raise InputError(f"config: {where}.{error} (images of {name})") from None

    # For people

    def link_latest(self) -> None:
        """Make `results/latest/<stage>[/<name>]` lead to the versions of this configuration."""
        latest = Path("results/latest")
        wanted = {latest / artifact.stage / artifact.name: artifact for artifact in self.artifacts.values()}
        for old in latest.rglob("*"):
            if old.is_symlink() and old not in wanted:
                old.unlink()
        for link, artifact in wanted.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            target = Path("results", artifact.stage, artifact.version)
            # Made beside and moved, so that there is a link at every moment.
            fresh = link.with_name(f".{link.name}-{os.getpid()}")
            fresh.symlink_to(os.path.relpath(target, link.parent))
            fresh.replace(link)

    # Small things

    def _schedule(self, settings: dict) -> dict:
        return {**settings["schedule"], "precision": self.config["precision"]}

    @staticmethod
    def _network_sizes(network: dict) -> list[int]:
        return list(dict.fromkeys(layer["kernel"] for layer in network["layers"] if "conv" in layer))

    @staticmethod
    def _is_fitted(settings: dict) -> bool:
        from dwp.priors import find

        return find(settings["kind"]).fitted


def shards(count: int, size: int) -> Iterator[str]:
    """Yield 'first-last' of runs of at most `size` numbers from 0; the runs before the last never move."""
    for first in range(0, count, size):
        yield f"{first:03d}-{min(first + size, count) - 1:03d}"


def _square(size: int) -> str:
    return f"{size}x{size}"


def _prior_names(choices: dict) -> list[str]:
    names = [choices["prior"]] if choices.get("posterior", "none") != "none" and "prior" in choices else []
    if choices["init"]["from"] not in CLASSICAL:
        names.append(choices["init"]["from"])
    return list(dict.fromkeys(names))


def _prior_module(kind: str) -> Path:
    return ROOT / "dwp" / "priors" / f"{kind}.py"
