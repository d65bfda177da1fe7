"""Smaller recurrent networks: words, neurons and constant gates are removed, not masked."""

import copy
import math

import torch
from torch import Tensor, nn

from dwp.bayes.bayesian_layer import BayesianLayer, BayesLinear
from dwp.bayes.recurrent import BayesEmbedding, BayesLSTM
from dwp.bayes.scales import Scales
from dwp.compression.report import Row, ShrinkReport
from dwp.errors import InputError
from dwp.nn.recurrent import PARAMETERS, CompactLSTM, EmbeddingOfSome, RecurrentNetwork

GATES = ("input", "forget", "flow", "output")
"""Gates of a unit, in the order of `nn.LSTM`; the third is the information flow."""
WEIGHT_THRESHOLD = 3.0


def shrink_recurrent(
    model: RecurrentNetwork, weight_threshold: float = WEIGHT_THRESHOLD, threshold: float | None = None
) -> RecurrentNetwork:
    """Return an ordinary network without what is pruned of a Bayesian recurrent network, which is unchanged.

    Its weights are posterior means. Its outputs equal those of `masked_recurrent` up to rounding. A unit is
    removed if neither the last layer nor a unit that stays reads it; a gate of a unit that stays is constant
    if no weight to it is left; an input of the LSTM is removed if no gate reads it or if it is zero for all
    words, and a word if its embedding is zero. One unit, input and word stay at least.

    Args:
        model: a network from `make_recurrent_bayesian`.
        weight_threshold: log(variance / mean²) above which a weight is pruned. The weight is the product with
            its scales, so a group whose scale has a larger ratio is pruned as well.
        threshold: also prune groups with a log dropout rate above it, see `Scales.log_dropout`, as is needed
            for scales of kind 'horseshoe'; None: no further ones.

    Returns:
        The network. Its LSTM is a `CompactLSTM`, its embedding an `EmbeddingOfSome`; its attribute
        `shrink_report` is a table of the layers.

    Raises:
        InputError: the model is not a Bayesian recurrent network.
    """
    network = masked_recurrent(model, weight_threshold, threshold)
    decoder, embedding = (
        network.get_parameter(f"{name}.weight").detach() for name in ("decoder", "embedding")
    )
    of_inputs, of_units, bias, _ = (network.get_parameter(f"lstm.{name}_l0").detach() for name in PARAMETERS)
    units = _read_units(of_units, decoder)
    rows = torch.cat([units + place * (len(bias) // 4) for place in range(4)])
    inputs = _indices((of_inputs[rows] != 0).any(0) & (embedding != 0).any(0))
    words = _indices((embedding[:, inputs] != 0).any(1))
    own, others = of_inputs[rows][:, inputs], of_units[rows][:, units]
    live = ((own != 0).any(1) | (others != 0).any(1)).nonzero().flatten()
    places = torch.full((len(embedding),), -1, device=words.device)
    places[words] = torch.arange(len(words), device=words.device)
    smaller = {
        "embedding": EmbeddingOfSome(embedding[words][:, inputs], places),
        "lstm": CompactLSTM(own[live], others[live], bias[rows], live),
        "decoder": _linear(decoder[:, units], network.get_parameter("decoder.bias").detach()),
    }
    for name, layer in smaller.items():
        network.set_submodule(name, layer)
    pairs = {
        "embedding": (embedding, "embedding.weight"),
        "lstm, from inputs": (of_inputs, "lstm.weight_ih"),
        "lstm, from units": (of_units, "lstm.weight_hh"),
        "decoder": (decoder, "decoder.weight"),
    }
    table = (
        Row(name, tuple(before.shape), tuple(network.get_parameter(after).shape), math.nan)
        for name, (before, after) in pairs.items()
    )
    network.__dict__["shrink_report"] = ShrinkReport(tuple(table), {})
    return network.train(model.training)


@torch.no_grad()
def masked_recurrent(
    model: RecurrentNetwork, weight_threshold: float = WEIGHT_THRESHOLD, threshold: float | None = None
) -> RecurrentNetwork:
    """Return an ordinary network of the model's sizes, with zeros for what is pruned.

    See `shrink_recurrent`.
    """
    lstm, embedding, decoder = model.lstm, model.embedding, model.decoder
    bayesian = isinstance(embedding, BayesEmbedding) and isinstance(decoder, BayesLinear)
    if not (isinstance(lstm, BayesLSTM) and bayesian):
        raise InputError(
            f"shrink: a {type(model).__name__} without Bayesian layers; use make_recurrent_bayesian first"
        )

    def weight(layer: BayesianLayer, moments: tuple[Tensor, Tensor], gates: Scales | None = None) -> Tensor:
        mean, kept = moments[0], _log_ratio(*moments) <= weight_threshold
        if threshold is not None:
            if layer.scales is not None:
                kept = kept & layer.by_group(layer.scales.log_dropout() <= threshold)
            if gates is not None:
                kept = kept & (gates.log_dropout() <= threshold)[:, None]
        return (mean * kept).to(lstm.bias)

    of_lstm = {
        name: weight(getattr(lstm, name), moments, lstm.gates)
        for name, moments in lstm.weight_moments().items()
    }
    inputs, units = of_lstm["inputs"].shape[1], of_lstm["recurrent"].shape[1]
    plain = nn.LSTM(inputs, units, batch_first=True).to(lstm.bias)
    given = (of_lstm["inputs"], of_lstm["recurrent"], lstm.bias, torch.zeros_like(lstm.bias))
    for name, value in zip(PARAMETERS, given, strict=True):
        plain.get_parameter(f"{name}_l0").copy_(value)
    network = copy.copy(model)
    network._modules = {}
    network.lstm = plain
    network.embedding = nn.Embedding.from_pretrained(
        weight(embedding, embedding.weight_moments()), freeze=False
    )
    network.decoder = _linear(weight(decoder, decoder.weight_moments()), decoder.bias)
    return network.train(model.training)


@torch.no_grad()
def log_ratios(model: RecurrentNetwork) -> list[Tensor]:
    """Return log(variance / mean²) of every weight of a Bayesian recurrent network, scales included."""
    layers = [model.embedding, model.decoder]
    moments = [layer.weight_moments() for layer in layers if isinstance(layer, BayesianLayer)]
    if isinstance(model.lstm, BayesLSTM):
        moments += model.lstm.weight_moments().values()
    return [_log_ratio(*one) for one in moments]


def _log_ratio(mean: Tensor, variance: Tensor) -> Tensor:
    # The floor keeps it finite where a mean is zero.
    return variance.log() - (mean.square() + 1e-16).log()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight)).to(weight)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def _read_units(recurrent: Tensor, decoder: Tensor) -> Tensor:
    """Return the indices of the units that the last layer reads, directly or through other units."""
    # Whether unit i reads unit j through any of its gates.
    reads = (recurrent.unflatten(0, (4, -1)) != 0).any(0)
    there = (decoder != 0).any(0)
    while True:
        more = there | reads[there].any(0)
        if torch.equal(more, there):
            return _indices(there)
        there = more


def _indices(chosen: Tensor) -> Tensor:
    """Return the indices of what is chosen, at least one."""
    found = chosen.nonzero().flatten()
    return found if len(found) else found.new_zeros(1)
