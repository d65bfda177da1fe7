"""Bayesian convolutions: any ordinary model made Bayesian, its ELBO, its predictions."""

import contextlib
from collections.abc import Iterator, Mapping
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp import posteriors
from dwp.errors import InputError
from dwp.networks import convolutions
from dwp.posteriors import GaussianPosterior, noise_like
from dwp.priors.base import Bound, Prior


class Noise(Enum):
    """Where a Bayesian layer's randomness enters; apart from train() and eval()."""

    OUTPUTS = "outputs"
    """Local reparameterisation: the outputs of each image are sampled. For training."""
    WEIGHTS = "weights"
    """One sample of the weights for all images. For the members of an ensemble."""
    NONE = "none"
    """The posterior mean of the weights."""


class BayesConv2d(nn.Module):
    """A convolution with a posterior over its kernels and a prior that they pay for.

    Every argument of the convolution it replaces is kept; the bias stays
    deterministic and outside the variance.

    Args:
        convolution: what to replace; its weight [o, i, k, k] becomes the posterior mean.
        prior: over k×k kernels, shared by all (out, in) pairs.
        form: name of the posterior's form, see `dwp.posteriors`.
    """

    def __init__(self, convolution: nn.Conv2d, prior: Prior, form: str = "additive") -> None:
        super().__init__()
        self.posterior = posteriors.build(form, convolution.weight)
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())
        self.prior = prior
        self.noise = Noise.OUTPUTS
        self.arguments = {name: getattr(convolution, name) for name in ("stride", "dilation", "groups")}
        self.padding = convolution.padding
        self.pad = (convolution._reversed_padding_repeated_twice, convolution.padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, i, h, w] to [n, o, h', w']."""
        # Sampled weights do not keep the layout of parameters with one channel; the input then decides it.
        x = x.to(memory_format=torch.channels_last)
        padding = self.padding
        if self.pad[1] != "zeros":
            x, padding = functional.pad(x, self.pad[0], mode=self.pad[1]), 0
        mean, log_variance = self.posterior.moments()
        if self.noise is Noise.OUTPUTS:
            location = functional.conv2d(x, mean, self.bias, padding=padding, **self.arguments)
            variance = functional.conv2d(
                x.square(), log_variance.exp(), None, padding=padding, **self.arguments
            )
            # The constant keeps the gradient of the root finite where no input reaches an output.
            return location + (variance + 1e-12).sqrt() * noise_like(location)
        if self.noise is Noise.WEIGHTS:
            mean = mean + (0.5 * log_variance).exp() * noise_like(mean)
        return functional.conv2d(x, mean, self.bias, padding=padding, **self.arguments)

    def kernels(self) -> GaussianPosterior:
        """Return the posterior as M = o·i kernels, [M, 1, k, k]."""
        mean, log_variance = (moment.flatten(0, 1)[:, None] for moment in self.posterior.moments())
        return GaussianPosterior(mean, log_variance)

    def kl(self, bound: Bound = Bound()) -> Tensor:
        """Return KL(q || prior) in nats, summed over the layer's weights; see `Prior.kl`."""
        return self.prior.kl(self.kernels(), bound)


def make_bayesian(model: nn.Module, priors: Mapping[int, Prior], form: str = "additive") -> nn.Module:
    """Replace every convolution of a model, in place, by a Bayesian one that starts from its weights.

    Args:
        model: any module with `nn.Conv2d` layers.
        priors: by kernel size; layers of one size share one prior.
        form: of the posterior, see `dwp.posteriors`.

    Raises:
        InputError: a convolution has a kernel size without a prior, or is not square.
    """
    for name, convolution in list(convolutions(model)):
        size = convolution.kernel_size
        if size[0] != size[1] or size[0] not in priors:
            raise InputError(
                f"layer {name}: there is no prior over {size[0]}×{size[1]} kernels; "
                f"there are priors for {', '.join(f'{k}×{k}' for k in sorted(priors)) or 'no size'}"
            )
        if not name:
            return BayesConv2d(convolution, priors[size[0]], form)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, BayesConv2d(convolution, priors[size[0]], form))
    return model


def bayesian_layers(model: nn.Module) -> list[BayesConv2d]:
    """Return the Bayesian layers of a model."""
    return [module for module in model.modules() if isinstance(module, BayesConv2d)]


def set_noise(model: nn.Module, noise: Noise) -> None:
    """Choose where the randomness of every Bayesian layer enters."""
    for layer in bayesian_layers(model):
        layer.noise = noise


def kl(model: nn.Module, bound: Bound = Bound()) -> Tensor:
    """Return the KL of all Bayesian layers, in nats, summed; each is estimated as `bound` says."""
    return sum((layer.kl(bound) for layer in bayesian_layers(model)), torch.zeros(()))


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, samples: int, generator_seed: int = 0, chunk: int = 250
) -> Tensor:
    """Return class probabilities of an ensemble of posterior samples.

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
            logits = []
            for part in images.split(chunk):
                # The same seed for every chunk: one sample of the weights serves all images.
                torch.manual_seed(generator_seed * 1_000_003 + member)
                logits.append(model(part).float())
            members.append(torch.cat(logits).softmax(1))
    return torch.stack(members)


@contextlib.contextmanager
def _predicting(model: nn.Module, noise: Noise) -> Iterator[None]:
    layers = bayesian_layers(model)
    before, training = [layer.noise for layer in layers], model.training
    model.eval()
    set_noise(model, noise)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.noise = own
        model.train(training)
