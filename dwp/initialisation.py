"""Initialise the convolutions of any model from a prior or by a classical rule."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwp.bayes.layer_report import Report
from dwp.bayes.matching import match_layers
from dwp.bayes.prior_choice import Default, Priors, Weighted, computes_else, fan_in, title
from dwp.errors import InputError, unknown
from dwp.nn.convnet import build, kernel_layers
from dwp.nn.noise import evaluating
from dwp.nn.precision import at_least_float32
from dwp.nn.seeding import seeded
from dwp.nn.spec import RULES, Network
from dwp.priors.base import Prior

_RULES: dict[str, Callable[..., Tensor]] = dict(
    zip(RULES, (nn.init.xavier_uniform_, nn.init.kaiming_uniform_), strict=True)
)

# The outputs of a deep network vary by more than a factor of two between draws by He's rule.
_HE_DRAWS = 8


@torch.no_grad()
def init_(
    model: nn.Module,
    priors: Priors,
    *,
    default: Default = None,
    gain: str | Tensor | None = "fan_in",
    mean: bool = False,
    generator: torch.Generator | None = None,
) -> Report:
    """Draw the weights of a model's convolutions and linear layers from priors, in place.

    Args:
        model: a module without Bayesian layers; every convolution (transposed ones too) and linear layer
            with a prior is initialised, other layers are not changed.
        priors: a prior, one prior per kernel size, or a mapping from kernel sizes or layer names to
            priors. Layer names take precedence; None leaves layers unchanged. A linear layer gets a prior
            by its name only.
        default: the prior of every convolution and linear layer that `priors` does not match, see
            `prior_choice.Default`; None leaves them unchanged.
        gain: multiplies the weights of each layer with a prior by one factor. 'fan_in' gives them the mean
            square of He's rule, 2 / fan-in. A batch of inputs of the model, such as training images, gives
            the layer's outputs the mean square that they have with weights of He's rule in all of these
            layers: this also corrects for kernels that amplify smooth or positive inputs. None: as drawn.
        mean: omit the last layer of noise (a VAE gives its decoder means).
        generator: random generator on the CPU; None uses PyTorch's default.

    Returns:
        A table of all layers, with their priors or why they have none, and the scales of their weights
        before and after; `changed` are the names of the initialised layers.

    Raises:
        InputError: a name matches no layer, no layer has a prior, a prior cannot be sampled from, or a
            weight cannot be initialised, see `matching.match_layers`, or the gain is unknown; the model is
            then unchanged.
    """
    if isinstance(gain, str) and gain != "fan_in":
        raise unknown("gain", gain, ["fan_in", "a batch of inputs"])
    matches, report = match_layers(model, priors, default=default)
    drawn = []
    for one in matches:
        weight = one.layer.weight
        if weight.is_meta:
            raise InputError(
                f"{title(one.names[0])}: its weight is on the device meta, where nothing is kept"
            )
        drawn.append(one.prior.sample(weight.numel() // one.prior.kernel_size**2, generator, mean=mean))
    layers = [one.layer for one in matches]
    before = [layer.weight.clone() for layer in layers] if isinstance(gain, Tensor) else []
    for layer, kernels in zip(layers, drawn, strict=True):
        if gain is not None:
            kernels = scaled(kernels, fan_in(layer))
        layer.weight.copy_(kernels.view(layer.weight.shape))
    if isinstance(gain, Tensor):
        try:
            _calibrate(model, layers, gain)
        except Exception:
            # The model could not take the inputs.
            for layer, weight in zip(layers, before, strict=True):
                layer.weight.copy_(weight)
            raise
    return report.afterwards({one.names[0]: one.layer.weight for one in matches})


def scaled(kernels: Tensor, fan_in: int) -> Tensor:
    """Return the kernels of a layer with the mean square of He's rule, 2 / fan-in."""
    return kernels * _factor((2 / fan_in) ** 0.5, _root_mean_square(kernels))


def _root_mean_square(y: Tensor) -> Tensor:
    """Return the root mean square; the squares of large values may exceed the range of their type."""
    largest = y.abs().amax().clamp_min(torch.finfo(y.dtype).tiny)
    return largest * (y / largest).square().mean().sqrt()


def _factor(wanted: Tensor | float, found: Tensor) -> float:
    """Return the factor that takes a scale to the wanted one; 1 if that is impossible."""
    ratio = torch.as_tensor(wanted / found).item()
    return ratio if 0 < ratio < math.inf else 1.0


def _calibrate(model: nn.Module, layers: list[Weighted], inputs: Tensor) -> None:
    """Scale the weights of layers so that their outputs have the same mean squares as with He's rule.

    Similar to LSUV (Mishkin & Matas 2016), whose target is a variance of 1. Layers that compute something
    else than their class, or that the model does not call, stay as they are.
    """
    layers = [layer for layer in layers if not computes_else(layer)]
    drawn, generator = [layer.weight.clone() for layer in layers], torch.Generator().manual_seed(0)
    by_he: dict[Weighted, list[Tensor]] = defaultdict(list)

    def record(layer: Weighted, y: Tensor) -> None:
        by_he[layer].append(_root_mean_square(y))

    def scale(layer: Weighted, y: Tensor) -> None:
        wanted = torch.stack(by_he[layer]).log().mean().exp()
        layer.weight.mul_(_factor(wanted, _root_mean_square(y)))

    for _ in range(_HE_DRAWS):
        for layer in layers:
            noise = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.copy_(noise * (2 / fan_in(layer)) ** 0.5)
        _each_first_use(model, layers, inputs, record)
    for layer, weight in zip(layers, drawn, strict=True):
        layer.weight.copy_(weight)
    _each_first_use(model, [layer for layer in layers if layer in by_he], inputs, scale)


def _each_first_use(
    model: nn.Module, layers: list[Weighted], inputs: Tensor, act: Callable[[Weighted, Tensor], None]
) -> None:
    """Run a model in evaluation mode; at the first use of each layer call `act` with it and its outputs.

    The outputs are without bias, in float32 at least. Later layers see what `act` changes.
    """

    def hook(layer: Weighted, arguments: tuple, _: Tensor) -> Tensor:
        handles.pop(layer).remove()
        x, weight = at_least_float32(arguments[0]), at_least_float32(layer.weight)
        bias = {} if layer.bias is None else {"bias": torch.zeros_like(layer.bias, dtype=weight.dtype)}
        act(layer, functional_call(layer, {"weight": weight} | bias, (x,)))
        return layer(*arguments)

    handles = {layer: layer.register_forward_hook(hook) for layer in layers}
    try:
        with evaluating(model):
            model(inputs)
    finally:
        for handle in handles.values():
            handle.remove()


@torch.no_grad()
def classical_(model: nn.Module, rule: str, generator: torch.Generator | None = None) -> None:
    """Initialise every convolution by a classical rule, 'xavier' or 'he' (uniform), with zero biases.

    Transposed convolutions have the same scale: in both, an output sums `in_channels` · k² products
    (fewer with strides).

    Raises:
        InputError: the rule is unknown.
    """
    if rule not in RULES:
        raise unknown("init", rule, [*RULES, "the name of a prior"])
    for _, layer in kernel_layers(model):
        if isinstance(layer, nn.ConvTranspose2d):
            # Its weight is [in, out / groups, k, k]: without the transposition the fans would be swapped.
            for part in layer.weight.chunk(layer.groups):
                _RULES[rule](part.transpose(0, 1), generator=generator)
        else:
            _RULES[rule](layer.weight, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


def build_initialised(
    network: Network,
    image_shape: tuple[int, int, int],
    classes: int,
    seed: int,
    *,
    width: float = 1.0,
    origins: Mapping[str, str | Prior] | None = None,
    mean: bool = False,
    build: Callable[[Network, tuple[int, int, int], int, float], nn.Module] = build,
) -> nn.Module:
    """Build a network and initialise it.

    Args:
        network: description of the network.
        image_shape: (channels, height, width) of one image.
        classes: outputs of the classifier.
        seed: seed of all random numbers; linear layers have PyTorch's default initialisation.
        width: factor on the channels of every convolution.
        origins: a rule of `classical_`, or a prior whose kernels are used as drawn, by name of the
            convolution; the default is 'xavier'. A layer in a submodule is looked up by the last part of
            its name, so that the encoder and decoder of an autoencoder share entries.
        mean: as in `init_`.
        build: builds the model from network, image_shape, classes and width; by default a classifier.

    Returns:
        The model, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        model = build(network, image_shape, classes, width)
    for name, layer in kernel_layers(model):
        origin = (origins or {}).get(name.rpartition(".")[2], "xavier")
        classical_(layer, origin if isinstance(origin, str) else "xavier", generator)
        if isinstance(origin, Prior):
            init_(layer, [origin], gain=None, mean=mean, generator=generator)
    return model


@torch.no_grad()
def load_(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy the weights of a trained network, except the classifier's, into a model with the same layers.

    Args:
        model: changed in place.
        state: the state dict of the trained network.

    Returns:
        The names of the tensors that were copied.

    Raises:
        InputError: a tensor of the model is missing from `state` or has another shape there.
    """
    copied = []
    for name, tensor in model.state_dict().items():
        if name.startswith("classifier."):
            continue
        there = state.get(name)
        if there is None or there.shape != tensor.shape:
            found = "it is not there" if there is None else f"there it is {list(there.shape)}"
            raise InputError(f"pretrained network: {name} is {list(tensor.shape)} here; {found}")
        tensor.copy_(there)
        copied.append(name)
    return copied
