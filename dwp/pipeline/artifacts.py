"""The artifacts of a configuration: what each is made from, and so its version."""

from functools import cached_property

from dwp import data
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.files import sha256
from dwp.nn.spec import size_label
from dwp.pipeline import config as configuration
from dwp.pipeline.provenance import Artifact
from dwp.pipeline.typed import parse
from dwp.priors.base import find

STAGES = "dwp.pipeline.stages"


class Artifacts:
    """All artifacts of one configuration but its report, in the order in which they are made.

    Known before anything runs, without reading any result. Lists and counts (nets, seeds,
    settings, methods) say which cells are wanted; they are not part of a version.

    Args:
        config: a complete configuration, already held against the schema.

    Raises:
        InputError: see `dwp.pipeline.config.check`; or a local data file is missing or damaged.
    """

    def __init__(self, config: dict) -> None:
        self.config = configuration.without_removed(config)
        configuration.check(self.config)
        self._datasets  # noqa: B018 - reads local files' headers and checksums: fail before the first job

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
                modules=(f"{STAGES}.data",),
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
        return Artifact("source", params, {"dataset": dataset}, (f"{STAGES}.source",))

    @cached_property
    def kernels(self) -> dict[int, Artifact]:
        """Return the kernel stores by size."""
        settings = self.config["kernels"]
        artifacts = {}
        for size in self.sizes:
            threshold = settings["threshold"]
            params = {
                "size": size,
                "threshold": threshold[size_label(size)] if isinstance(threshold, dict) else threshold,
                "test_fraction": settings["test_fraction"],
            }
            if settings["files"]:
                params["files"] = [sha256(file) for file in settings["files"]]
                inputs = {}
            else:
                params["nets"] = self.config["source"]["nets"]
                inputs = {"source": self.source}
            artifacts[size] = Artifact("kernels", params, inputs, (f"{STAGES}.kernels",), size_label(size))
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
                if "sizes" in settings and size_label(size) not in settings["sizes"]:
                    continue
                special = settings.get("sizes", {}).get(size_label(size), {})
                own = {key: value for key, value in {**settings, **special}.items() if key != "sizes"}
                if "schedule" in settings:
                    own["schedule"] = self._schedule(settings) | special.get("schedule", {})
                modules = (f"{STAGES}.prior", _prior_module(settings["kind"]))
                fitted[name][size] = Artifact(
                    "priors", own, {"kernels": self.kernels[size]}, modules, f"{name}-{size_label(size)}"
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
                    (f"{STAGES}.scores", *modules),
                    size_label(size),
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
        settings, typed = self.config["experiments"][experiment], self.experiments[experiment]
        declared = experiments.find(experiment)
        counts = ["seeds", "shard", "methods"]
        if declared.trains:
            counts.append(declared.axis)
        common = {key: value for key, value in settings.items() if key not in counts}
        if "schedule" in settings:
            common["schedule"] = self._schedule(settings)
        choices = settings["methods"][method]
        inputs = {"dataset": self.dataset(self.config["data"]["target"])}
        if settings.get("outliers"):
            inputs["outliers"] = self.dataset(self.config["data"]["source"])
        if methods.is_pretrained(typed.methods[method]):
            inputs["pretrained"] = self.source
        analytic = {}
        modules = {f"{STAGES}.experiment": None, f"dwp.experiments.{experiment}:run": None}
        for name, size in methods.priors_needed(typed.methods[method], typed.network):
            modules[_prior_module(self.config["priors"][name]["kind"])] = None
            if name in self.priors:
                inputs[f"{name}-{size}"] = self.priors[name][size]
            else:
                analytic[name] = self.config["priors"][name]
        params = {"settings": common, "method": choices, "priors": analytic}
        return Artifact(experiment, params, inputs, tuple(modules), method)

    @cached_property
    def experiments(self) -> dict[str, experiments.ExperimentSettings]:
        """Return the settings of each experiment."""
        return {
            name: parse(experiments.find(name).settings, settings, f"config: experiments.{name}")
            for name, settings in self.config["experiments"].items()
        }

    @cached_property
    def sizes(self) -> list[int]:
        """Return the kernel sizes that priors are wanted for: those of the experiments' networks."""
        networks = [settings.network for settings in self.experiments.values()]
        return sorted({size for network in networks for size in network.kernel_sizes()}, reverse=True)

    @property
    def trains_source(self) -> bool:
        """Return whether kernels come from nets trained here."""
        return not self.config["kernels"]["files"]

    def _schedule(self, settings: dict) -> dict:
        return {**settings["schedule"], "precision": self.config["precision"]}


def _prior_module(kind: str) -> str:
    return f"dwp.priors.{kind}"
