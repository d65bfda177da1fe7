"""Bayesian convolutions: any ordinary model made Bayesian, its ELBO, its predictions."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp import posteriors
from dwp.convolution import conv2d
from dwp.distributions import noise_like
from dwp.errors import InputError
from dwp.networks import convolutions
from dwp.posteriors import ALL, Factorised
from dwp.priors.base import Bound, Prior
from dwp.stochastic import Noise, Stochastic, holding, set_noise, stochastic_layers

__all__ = ["BayesConv2d", "Noise", "bayesian_layers", "kl", "make_bayesian", "predict", "set_noise"]


class BayesConv2d(Stochastic):
    """A convolution with a posterior over its kernels and a prior that they pay for.

    Every argument of the convolution it replaces is kept; the bias stays
    deterministic and outside the variance.

    Args:
        convolution: what to replace; the posterior starts from its weight [o, i, k, k].
        prior: over k×k kernels, shared by all (out, in) pairs.
        form: name of the posterior's form, see `dwp.posteriors`.
    """

    def __init__(self, convolution: nn.Conv2d, prior: Prior, form: str = "additive") -> None:
        super().__init__()
        self.posterior = posteriors.build(form, convolution.weight, prior)
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())
        self.arguments = {name: getattr(convolution, name) for name in ("stride", "dilation", "groups")}
        self.padding = convolution.padding
        self.pad = (convolution._reversed_padding_repeated_twice, convolution.padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        padding = self.padding
        if self.pad[1] != "zeros":
            x, padding = functional.pad(x, self.pad[0], mode=self.pad[1]), (0, 0)
        if self.noise is Noise.OUTPUTS and isinstance(self.posterior, Factorised):
            mean, log_variance = self.posterior.moments()
            location = conv2d(x, mean, self.bias, padding=padding, **self.arguments)
            variance = conv2d(x.square(), log_variance.exp(), None, padding=padding, **self.arguments)
            # The floor keeps root and gradient finite where no input reaches an output, or rounding does.
            return torch.addcmul(location, variance.clamp_min(1e-12).sqrt(), noise_like(location))
        # Other posteriors have no law of the outputs to draw from: one sample of the weights for all images.
        sampled = self.noise is not Noise.NONE
        weight = self.sample_once(lambda: self.posterior.weight(sampled=sampled))
        return conv2d(x, weight, self.bias, padding=padding, **self.arguments)

    def kl(self, bound: Bound = ALL) -> Tensor:
        """Return what the layer's kernels cost under their prior, in nats, summed; see `Prior.kl`."""
        return self.posterior.kl(bound)


def make_bayesian(model: nn.Module, priors: Mapping[int | str, Prior], form: str = "additive") -> nn.Module:
    """Replace every convolution of a model, in place, by a Bayesian one that starts from its weights.

    Args:
        model: any module with `nn.Conv2d` layers.
        priors: by kernel size, or by name of the layer, which goes first; layers of one
            size share one prior.
        form: of the posterior, see `dwp.posteriors`.

    Raises:
        InputError: a convolution has a kernel size without a prior, or is not square, or a
            prior does not go with the form; the model is then left as it was.
    """
    layers = []
    for name, convolution in convolutions(model):
        height, width = convolution.kernel_size
        prior = priors.get(name, priors.get(height)) if height == width else None
        if prior is None or prior.kernel_size != height:
            sizes = ", ".join(f"{k}×{k}" for k in sorted({p.kernel_size for p in priors.values()}))
            raise InputError(
                f"layer {name}: there is no prior over {height}×{width} kernels; "
                f"there are priors for {sizes or 'no size'}"
            )
        layers.append((name, BayesConv2d(convolution, prior, form)))
    for name, layer in layers:
        if not name:
            return layer
        model.set_submodule(name, layer)
    return model


def bayesian_layers(model: nn.Module) -> list[BayesConv2d]:
    """Return the Bayesian layers of a model."""
    return [module for module in model.modules() if isinstance(module, BayesConv2d)]


def kl(model: nn.Module, bound: Bound = ALL) -> Tensor:
    """Return the KL of all Bayesian layers, in nats, summed; each layer's is estimated as `bound` says."""
    return sum((layer.kl(bound) for layer in bayesian_layers(model)), torch.zeros(()))


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, samples: int, generator_seed: int = 0, chunk: int = 250
) -> Tensor:
    """Return class probabilities of an ensemble: of posterior samples, or of samples of dropout.

    Args:
        model: from images [n, c, h, w] to logits; left in the noise mode and training mode it had.
        images: [n, c, h, w].
        samples: members of the ensemble; 0 predicts with the posterior mean.
        generator_seed: of the noise; member i is the same whatever the number of images.
        chunk: images at a time.

    Returns:
        Probabilities [members, n, classes]; the mean over members is the prediction.
    """
    members = []
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _predicting(model, Noise.WEIGHTS if samples else Noise.NONE):
        for member in range(max(samples, 1)):
            torch.manual_seed(generator_seed * 1_000_003 + member)
            # One sample of the weights serves all images.
            with holding(model):
                logits = [model(part).float() for part in images.split(chunk)]
            members.append(torch.cat(logits).cpu().double().softmax(1))
    return torch.stack(members)


@contextlib.contextmanager
def _predicting(model: nn.Module, noise: Noise) -> Iterator[None]:
    layers = stochastic_layers(model)
    before, training = [layer.noise for layer in layers], model.training
    model.eval()
    set_noise(model, noise)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.noise = own
        model.train(training)
