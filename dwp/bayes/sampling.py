"""Samples of the posterior over all weights of a network, by Hamiltonian Monte Carlo."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes.coordinates import Coordinates, of_prior
from dwp.bayes.hmc import DEFAULTS, HMC, Chain, Point
from dwp.bayes.layers import predicting
from dwp.bayes.matching import match_layers
from dwp.bayes.posteriors import own
from dwp.bayes.prior_choice import Default, Priors, computes_else
from dwp.errors import InputError
from dwp.nn.noise import Noise
from dwp.nn.precision import at_least_float32
from dwp.nn.seeding import rng_state, seeded, set_rng_state
from dwp.priors.base import Prior
from dwp.priors.standard_normal import StandardNormal
from dwp.training import signals
from dwp.training.checkpoints import Checkpoint
from dwp.training.loop import Progress

logger = logging.getLogger(__name__)

WARM_UP = 0.25
"""Share of the gradient evaluations before samples are kept."""
LOW_ACCEPTANCE = 0.05
"""Mean acceptance probability below which a chain is reported to hardly move."""
OTHERS_SCALE = 0.1


class NetworkPosterior:
    """The posterior over the trainable parameters of a classifier, in coordinates of their priors.

    Args:
        model: maps images [n, c, h, w] to logits; dropout is off. Not changed.
        priors: priors over weights of convolutions and linear layers, see `prior_choice.Priors`.
        images: training images, [n, c, h, w].
        labels: int64 [n].
        default: prior of the convolutions and linear layers that `priors` does not match.
        weight: of the log prior relative to the log-likelihood; below 1 the posterior is tempered, as with
            the `weight` of `objectives.elbo`.
        others_scale: standard deviation of the parameters without a prior, such as biases, around their
            present values.
        examples: number of independent examples that the images stand for, if they contain copies; the
            log-likelihood is scaled to it. None: all.

    Raises:
        InputError: see `match_layers`; a prior has no density, or none to draw from.
    """

    def __init__(
        self,
        model: nn.Module,
        priors: Priors,
        images: Tensor,
        labels: Tensor,
        *,
        default: Default = None,
        weight: float = 1.0,
        others_scale: float = OTHERS_SCALE,
        examples: int | None = None,
    ) -> None:
        if not weight > 0:
            raise InputError(f"sample_posterior: weight is {weight}; expected a positive number")
        self.model, self.images, self.labels, self.weight = model, images, labels, weight
        self.others_scale = others_scale
        self.examples = len(labels) if examples is None else examples
        matches, self.report = match_layers(model, priors, ("weight",), default, computes_else)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        by_prior: dict[Prior, Coordinates] = {}
        self.coordinates: dict[str, Coordinates] = {}
        for one in matches:
            name = f"{one.names[0]}.weight".lstrip(".")
            if name in trained:
                if one.prior not in by_prior:
                    by_prior[one.prior] = of_prior(own(one.prior, one.layer.weight), one.layer.weight)
                self.coordinates[name] = by_prior[one.prior]
        self.initial = {name: p.detach() for name, p in trained.items()}

    def start(self) -> Point:
        """Return the coordinates of the model's present weights."""
        return {
            name: self._at(name, value) if name in self.coordinates else torch.zeros_like(value)
            for name, value in self.initial.items()
        }

    def _at(self, name: str, weight: Tensor) -> Tensor:
        coordinates = self.coordinates[name]
        size = coordinates.prior.kernel_size
        return coordinates.at(weight.reshape(-1, 1, size, size))

    def parameters(self, point: Point) -> dict[str, Tensor]:
        """Return the parameters of the model at a point."""
        return {
            name: self.coordinates[name].kernels(x).reshape(self.initial[name].shape).to(self.initial[name])
            if name in self.coordinates
            else self.initial[name] + self.others_scale * x
            for name, x in point.items()
        }

    def potential(self, point: Point) -> Tensor:
        """Return the negative log posterior relative to a standard normal at a point, in nats, summed."""
        logits = torch.func.functional_call(self.model, self.parameters(point), (self.images,))
        nll = self.examples * functional.cross_entropy(at_least_float32(logits), self.labels)
        ratios = [one.log_ratio(point[name]) for name, one in self.coordinates.items() if not one.exact]
        return nll / self.weight - sum(ratios)


class Samples:
    """Samples of a network's posterior.

    Args:
        model: the network.
        parameters: its parameters in each sample.
    """

    def __init__(self, model: nn.Module, parameters: list[dict[str, Tensor]]) -> None:
        self.model, self.parameters = model, parameters

    def __len__(self) -> int:
        return len(self.parameters)

    def thinned(self, count: int) -> "Samples":
        """Return at most `count` of the samples, evenly spaced."""
        total = len(self)
        chosen = range(total) if total <= count else (i * total // count for i in range(count))
        return Samples(self.model, [self.parameters[i] for i in chosen])

    @torch.no_grad()
    def predict(self, images: Tensor, chunk: int = 250) -> Tensor:
        """Return class probabilities [samples, n, classes] in float64; their mean is the prediction."""
        call = torch.func.functional_call
        members = []
        with predicting(self.model, Noise.NONE):
            for one in self.parameters:
                logits = torch.cat([call(self.model, one, (part,)) for part in images.split(chunk)])
                members.append(logits.double().softmax(1))
        return torch.stack(members)


def sample_posterior(
    model: nn.Module,
    priors: Priors,
    images: Tensor,
    labels: Tensor,
    steps: int = 1000,
    *,
    default: Default = StandardNormal.kind,
    weight: float = 1.0,
    seed: int = 0,
    settings: HMC = DEFAULTS,
) -> Samples:
    """Sample the weights of a classifier from their posterior, for few training images.

    The chain starts from the model's present weights, such as those of `dwp.init_`. All training images are
    used in every step.

    Args:
        model: maps images [n, c, h, w] to logits; not changed.
        priors: see `NetworkPosterior`, as well as for `images`, `labels`, `default` and `weight`.
        images: training images.
        labels: their labels.
        steps: evaluations of the gradient, the first quarter of which is warm-up.
        default: prior of the layers that `priors` does not match.
        weight: of the log prior.
        seed: seed of the random numbers.
        settings: see `HMC`.

    Returns:
        One sample for each trajectory after the warm-up; `samples.predict(images).mean(0)` are class
        probabilities.

    Raises:
        InputError: see `NetworkPosterior`.
    """
    posterior = NetworkPosterior(model, priors, images, labels, default=default, weight=weight)
    return sample(posterior, steps, seed=seed, settings=settings)[0]


def sample(
    posterior: NetworkPosterior,
    steps: int,
    *,
    seed: int,
    settings: HMC = DEFAULTS,
    refine: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    evaluate: Callable[[Samples], dict[str, float]] | None = None,
    every: int = 0,
    checkpoint: Checkpoint | None = None,
    label: str = "sample",
) -> tuple[Samples, list[dict]]:
    """Run a chain from the model's present weights; return its samples, and rows {step, metric, value}.

    Each trajectory after the warm-up gives a sample.

    Args:
        posterior: what to sample from.
        steps: gradient evaluations; the chain ends with the first trajectory that reaches them. A quarter
            of them is warm-up, in which the step size is adapted.
        seed: seed of the random numbers; the state of the global generators is restored.
        settings: see `HMC`.
        refine: a function of the parameters of a sample that returns those to keep.
        evaluate: returns metrics of the samples so far, recorded about every `every` steps and at the end.
        every: 0: only at the end.
        checkpoint: where to save progress and resume from; None disables checkpoints.
        label: name of this chain in logs and progress bars.

    Returns:
        The samples, and rows of `evaluate`'s metrics with `acceptance` (mean probability so far).

    Raises:
        Stopped: on SIGTERM (see `dwp.training.signals`), after the current trajectory is saved.
    """
    device = posterior.images.device
    kept: list[dict[str, Tensor]] = []
    rows: list[dict] = []
    accepted = 0.0

    def record() -> None:
        found = evaluate(Samples(posterior.model, kept)) if evaluate else {}
        found["acceptance"] = accepted / len(kept)
        rows.extend({"step": chain.gradients, "metric": name, "value": x} for name, x in found.items())

    with seeded(seed, device), signals.deferred(label), predicting(posterior.model, Noise.NONE):
        chain = Chain(posterior.potential, posterior.start(), settings)
        if checkpoint and (saved := checkpoint.load()):
            chain.load_state_dict(saved["chain"])
            kept = [{name: x.to(device) for name, x in one.items()} for one in saved["kept"]]
            rows, accepted = saved["rows"], saved["accepted"]
            set_rng_state(saved["rng"], device)
            logger.info("%s: resumed at step %d of %d", label, chain.gradients, steps)
        progress = Progress(label, chain.gradients, steps)
        while chain.gradients < steps or not kept:
            before, warming = chain.gradients, chain.gradients < WARM_UP * steps
            probability = chain.advance(adapt=warming)
            if not warming:
                accepted += probability
                with torch.no_grad():
                    found = {name: x.clone() for name, x in posterior.parameters(chain.point).items()}
                    kept.append(refine(found) if refine else found)
            if kept and (chain.gradients >= steps or (every and before // every < chain.gradients // every)):
                record()
            progress.update(min(chain.gradients, steps))
            if checkpoint and (chain.gradients >= steps or checkpoint.due() or signals.requested()):
                state = {"chain": chain.state_dict(), "kept": kept, "rows": rows, "accepted": accepted}
                checkpoint.save({**state, "rng": rng_state(device)})
            if signals.requested():
                break
        progress.close()
        if kept and accepted < LOW_ACCEPTANCE * len(kept):
            logger.warning(
                "%s: after the warm-up, trajectories were accepted with a probability of %.2g; the samples "
                "hardly differ: run more steps, or start with a smaller step_size",
                label,
                accepted / len(kept),
            )
    return Samples(posterior.model, kept), rows
