"""The report of a configuration: its artifact, and what it contains."""

from functools import cached_property

from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.pipeline.artifacts import STAGES, Artifacts
from dwp.pipeline.provenance import Artifact
from dwp.pipeline.typed import dump
from dwp.report.catalogue import Contents, Output, compared, report_files


class ReportArtifact(Artifacts):
    """All artifacts of one configuration, with the report."""

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
        inputs |= {f"tuning-{artifact.name}": artifact for artifact in self.tunings.values()}
        trained = self.config.trains_source
        params = {
            "style": dump(self.config.report),
            "source": self.config.data.source if trained else "",
            "target": self.config.data.target,
            # The contents, in order; their versions are among the inputs.
            "nets": [self.config.source.nets, self.config.source.shard] if trained else [],
            "priors": [[name, *sizes] for name, sizes in self.priors.items()],
            "experiments": [
                [name, list(settings.methods), list(self.settings(name)), settings.seeds, settings.shard]
                for name, settings in self.config.experiments.items()
            ],
            "switches": self.contents.experiments,
            "titles": {
                name: {key: method.title for key, method in settings.methods.items() if method.title}
                for name, settings in self.config.experiments.items()
            },
            "learned": {name: self._learned(name) for name in self.config.experiments},
            "kinds": _pairs(self._kinds),
            "uses": {method: list(use) for method, use in self._uses.items()},
            "roles": {
                "scores": {str(size): _pairs(self.score_roles(size)) for size in self.scores},
                "tuning": self._tuning_roles(),
            },
        }
        declared = [f"dwp.experiments.{name}" for name in self.config.experiments]
        return Artifact("report", params, inputs, (f"{STAGES}.report", *declared))

    def _tuning_roles(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the roles of the priors of each tuned method, by experiment and method."""
        found: dict[str, dict[str, dict[str, str]]] = {}
        for experiment, method in self.tunings:
            found.setdefault(experiment, {})[method] = self.method_roles(experiment, method)
        return found

    def settings(self, experiment: str) -> tuple[float, ...]:
        """Return the values of an experiment's axis."""
        return getattr(self.config.experiments[experiment], experiments.find(experiment).axis)

    def _learned(self, experiment: str) -> list[str]:
        """Return the methods of an experiment with a fitted prior, as prior or as initialisation.

        Controls, whose prior or drawn kernels have no structure, are none of them.
        """
        fitted = {name for name in self.priors if not self.config.priors[name].is_control}
        trials = self.config.trials[experiment]
        return [
            name
            for name, method in self.config.experiments[experiment].methods.items()
            if any(
                prior in fitted
                for one in [method, *(trial.method for trial in trials.get(name, ()))]
                for prior in methods.names_used(one)
            )
        ]

    @property
    def _kinds(self) -> dict[str, str]:
        """Return the kind of each prior that is scored or that a method uses alone, by name."""
        shown = {name for size in self.scores for name in self.score_roles(size)}
        shown |= {use.prior for use in self._uses.values()}
        return {name: prior.kind for name, prior in self.config.priors.items() if name in shown}

    @cached_property
    def _uses(self) -> dict[str, methods.PriorUse]:
        """Return how each method of the compared experiment that uses one prior alone uses it.

        Tuned methods that try several priors, or several uses of one, are none of them. Without scores there
        is nothing to compare.
        """
        experiment = compared(self.config.experiments)
        if experiment is None or not self.scores:
            return {}
        settings, found = self.config.experiments[experiment], {}
        for name in settings.methods:
            tried = [methods.only_use(one, settings.network) for one in self._used(experiment, name)]
            if tried[0] is not None and all(one == tried[0] for one in tried):
                found[name] = tried[0]
        return found

    def report_files(self) -> list[Output]:
        """Return the tables and figures, with their captions."""
        return report_files(self.contents)

    @property
    def contents(self) -> Contents:
        """Return the contents of the report."""
        return Contents(
            experiments={
                name: [key for key, value in vars(settings).items() if value is True]
                for name, settings in self.config.experiments.items()
            },
            sizes=self.config.sizes,
            priors={
                name: dict.fromkeys(sizes, self.config.priors[name].kind)
                for name, sizes in self.priors.items()
            },
            nets=self.config.trains_source,
            scores=bool(self.scores),
            uses=self._uses,
            tuned=list(dict.fromkeys(experiment for experiment, _ in self.tunings)),
        )


def _pairs(entries: dict[str, str]) -> list[list[str]]:
    """Return the entries as a list, which, unlike a dictionary, keeps its order in `Artifact.spec`."""
    return [list(pair) for pair in entries.items()]
