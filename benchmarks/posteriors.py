"""Approximations of the posterior of a small network under one prior: mean field, MAP ensemble, HMC."""

import argparse
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.coordinates import Coordinates, of_prior
from dwp import data, metrics
from dwp.bayes import layers
from dwp.bayes.objectives import elbo, penalised
from dwp.nn.seeding import derived_seed, seeded
from dwp.priors.base import KLEstimator, Prior
from dwp.priors.standard_normal import StandardNormal
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

SIZES = {"conv1": 7, "conv2": 5}
# Of the mean square of a prior's weights: the initial variance of a posterior that is to converge.
VARIANCE = 0.05
# Length of a trajectory; a standard normal coordinate is independent of its start after π/2.
TRAJECTORY = 1.0
# Pixels a side, and training images of which the few are chosen.
SIDE, POOL = 22, 2000

MEAN_FIELD, HMC, ENSEMBLE = "mean field", "HMC", "MAP ensemble"


def mean_square(prior: Prior) -> float:
    """Return the mean square of a prior's weights, from samples."""
    return prior.sample(4000, torch.Generator().manual_seed(0)).square().mean().item()


def network(channels: tuple[int, int], classes: int) -> nn.Sequential:
    """Return the network for images of 22×22, all of whose weights have a prior."""
    first, second = channels
    model = nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(1, first, SIZES["conv1"], bias=False)),
        ("pool1", nn.MaxPool2d(2)),
        ("activation1", nn.LeakyReLU()),
        ("conv2", nn.Conv2d(first, second, SIZES["conv2"], bias=False)),
        ("pool2", nn.MaxPool2d(2)),
        ("activation2", nn.LeakyReLU()),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(4 * second, classes, bias=False)),
    ):
        model.add_module(name, layer)
    return model


@functools.cache
def letters(test_images: int) -> data.Dataset:
    """Return images of the letters K to T, of which the fitted priors have seen none."""
    return data.build("glyphs-k-t", downloads="", options={"train": POOL, "test": test_images})


def smaller(images: Tensor) -> Tensor:
    """Return images [n, 1, 22, 22]."""
    return functional.interpolate(images, SIDE, mode="bilinear", antialias=True)


class Problem:
    """The few-shot task of one split under one prior, and its approximate posteriors."""

    def __init__(self, arguments: argparse.Namespace, split: int, priors: dict[int, Prior]) -> None:
        self.arguments, self.split = arguments, split
        dataset = letters(arguments.test_images)
        chosen = data.few_shot(dataset.train_labels, arguments.examples, split)
        self.images, self.labels = smaller(dataset.images("train")[chosen]), dataset.train_labels[chosen]
        self.test_images, self.test_labels = smaller(dataset.images("test")), dataset.test_labels
        self.model = network(arguments.channels, dataset.classes).requires_grad_(False)
        self.classifier = StandardNormal(1, arguments.classifier_scale)
        self.priors = {layer: priors[size] for layer, size in SIZES.items()} | {"classifier": self.classifier}
        self.coordinates: dict[str, Coordinates] = {
            layer: of_prior(prior) for layer, prior in self.priors.items()
        }

    def _weight(self, layer: str) -> Tensor:
        return self.model.get_submodule(layer).weight

    def results(self, measured: set[str]) -> Iterator[dict]:
        """Yield a result of each method that is not measured: method, accuracy, nll, and diagnostics."""
        methods: dict[str, Callable[[], dict]] = {
            MEAN_FIELD: lambda: self.converged[1],
            f"{MEAN_FIELD}, MAP classifier": lambda: self.mean_field(bayesian_classifier=False)[1],
            f"{MEAN_FIELD}, KL weight 0.1": lambda: self.mean_field(weight=0.1)[1],
            f"{MEAN_FIELD}, KL weight 0.01": lambda: self.mean_field(weight=0.01)[1],
            f"{MEAN_FIELD}, initial log-variance -10": lambda: self.mean_field(converge=False)[1],
            ENSEMBLE: self.ensemble,
            HMC: self.hmc,
        }
        wanted = self.arguments.methods or methods
        for name, method in methods.items():
            if name in wanted and name not in measured:
                yield {"method": name, **method()}

    def draw(self, stream: int) -> nn.Sequential:
        """Return a network with weights drawn from the prior."""
        model = network(self.arguments.channels, self._weight("classifier").shape[0])
        generator = torch.Generator().manual_seed(derived_seed(self.split, stream))
        for layer, prior in self.priors.items():
            weight = model.get_submodule(layer).weight
            weight.data = prior.sample(weight.numel() // prior.kernel_size**2, generator).view_as(weight)
        return model

    @functools.cached_property
    def converged(self) -> tuple[nn.Module, dict]:
        """The mean field of the ELBO, and its result."""
        return self.mean_field()

    def mean_field(
        self, *, weight: float = 1.0, bayesian_classifier: bool = True, converge: bool = True
    ) -> tuple[nn.Module, dict]:
        """Return a network with the additive posterior, and its result.

        Args:
            weight: of the KL divergence.
            bayesian_classifier: whether the classifier has a posterior; otherwise a MAP estimate.
            converge: whether its variances start near those of the posterior; otherwise as the library
                starts them, too low to rise to their optimum in so many steps.
        """
        priors = dict(self.priors) if bayesian_classifier else {k: self.priors[k] for k in SIZES}
        model = layers.make_bayesian(self.draw(0), priors)
        if converge:
            for layer in layers.bayesian_layers(model):
                square = mean_square(layer.posterior.prior)
                layer.posterior.log_variance.data.fill_(math.log(VARIANCE * square))
        loss = elbo(model, len(self.labels), KLEstimator(importance_samples=5), weight)
        if not bayesian_classifier:
            precision = self.arguments.classifier_scale**-2 / len(self.labels)
            loss = penalised(loss, model.get_submodule("classifier"), precision)
        trained = self._train(model, loss, 0.01)
        predicted = layers.predict(model, self.test_images, samples=20).mean(0)
        return model, {**self.score(predicted), "train_nll": trained["train_nll"], "kl": trained["kl"]}

    def ensemble(self) -> dict:
        """Return the result of several MAP estimates from different draws, and of a single one."""
        members = []
        for member in range(self.arguments.members):
            model = layers.make_bayesian(self.draw(member), dict(self.priors), "point")
            self._train(model, elbo(model, len(self.labels), KLEstimator(importance_samples=5)), 0.005)
            members.append(layers.predict(model, self.test_images, samples=0)[0])
        single = [self.score(one) for one in members]
        means = {f"single_{key}": sum(one[key] for one in single) / len(single) for key in single[0]}
        return {**self.score(torch.stack(members).mean(0)), **means}

    def _train(self, model: nn.Module, loss: Callable, rate: float) -> dict[str, float]:
        schedule = Schedule(lr=rate, steps=self.arguments.steps)
        rows = fit(model, loss, (self.images, self.labels), schedule, seed=self.split)
        return {one["metric"]: one["value"] for one in rows}

    def weights(self, place: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the network at a place, coordinates by layer."""
        return {
            f"{layer}.weight": one.kernels(place[layer]).reshape(self._weight(layer).shape)
            for layer, one in self.coordinates.items()
        }

    def place(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the coordinates of the weights of a network, or of their means."""
        found = {}
        with torch.no_grad():
            for layer, one in self.coordinates.items():
                module, size = model.get_submodule(layer), self.priors[layer].kernel_size
                posterior = getattr(module, "posterior", None)
                weight = module.weight if posterior is None else posterior.mean
                found[layer] = one.at(weight.reshape(-1, 1, size, size))
        return found

    def potential(self, place: dict[str, Tensor]) -> Tensor:
        """Return the negative log joint density of labels and coordinates, in nats, up to a constant."""
        logits = torch.func.functional_call(self.model, self.weights(place), (self.images,))
        nll = functional.cross_entropy(logits, self.labels, reduction="sum")
        return nll - sum(one.log_prob(place[layer]) for layer, one in self.coordinates.items())

    def chain(self, start: nn.Module, seed: int) -> tuple[dict[str, Tensor], float]:
        """Return samples of the coordinates by layer, and the acceptance rate, of one chain."""
        from pyro.infer import HMC as Kernel
        from pyro.infer import MCMC

        kernel = Kernel(
            potential_fn=self.potential,
            step_size=0.05,
            trajectory_length=TRAJECTORY,
            adapt_mass_matrix=False,
        )
        with seeded(seed):
            sampler = MCMC(
                kernel,
                num_samples=self.arguments.samples,
                warmup_steps=self.arguments.warmup,
                initial_params=self.place(start),
                disable_progbar=True,
            )
            sampler.run()
        return sampler.get_samples(), sampler.diagnostics()["acceptance rate"]["chain 0"]

    def hmc(self) -> dict:
        """Return the result of the pooled chains, with acceptance, R-hat and effective sample size."""
        from pyro.ops import stats as diagnostics

        half = self.arguments.chains // 2
        predicted, accepted = [], []
        for chain in range(2 * half):
            start = self.converged[0] if chain < half else self.draw(chain)
            samples, rate = self.chain(start, derived_seed(self.split, chain))
            predicted.append(self.predict(samples))
            accepted.append(rate)
        members = torch.stack(predicted)
        # Of the probability of each test label.
        labels = self.test_labels[None, None, :, None].expand(*members.shape[:2], -1, 1)
        traces = members.gather(3, labels)[..., 0]
        r_hat = diagnostics.split_gelman_rubin(traces, chain_dim=0, sample_dim=1)
        effective = diagnostics.effective_sample_size(traces, chain_dim=0, sample_dim=1)
        return {
            **self.score(members.mean((0, 1))),
            "nll_from_mean_field": self.score(members[:half].mean((0, 1)))["nll"],
            "nll_from_prior": self.score(members[half:].mean((0, 1)))["nll"],
            "acceptance": sum(accepted) / len(accepted),
            "r_hat_median": r_hat.median().item(),
            "r_hat_95": r_hat.quantile(0.95).item(),
            "effective_samples": effective.median().item(),
        }

    @torch.no_grad()
    def predict(self, samples: dict[str, Tensor]) -> Tensor:
        """Return class probabilities of every second sample, [samples / 2, n, classes], in float64."""
        members = []
        for i in range(1, len(samples["conv1"]), 2):
            weights = self.weights({layer: values[i] for layer, values in samples.items()})
            logits = torch.func.functional_call(self.model, weights, (self.test_images,))
            members.append(logits.double().softmax(1))
        return torch.stack(members)

    def score(self, predicted: Tensor) -> dict[str, float]:
        """Return accuracy and NLL (mean, nats) of class probabilities of the test images."""
        return {
            "accuracy": metrics.accuracy(predicted, self.test_labels),
            "nll": metrics.nll(predicted, self.test_labels),
        }
