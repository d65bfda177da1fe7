"""Log dropout rates, their threshold, and the plain network of posterior means without pruned weights."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwp.bayes.bayesian_layer import BayesConv, BayesConvTranspose, BayesianLayer
from dwp.bayes.posteriors import Factorised
from dwp.bayes.recurrent import BayesEmbedding, BayesLSTM
from dwp.errors import InputError, unknown
from dwp.kernels.pruning import choose_threshold, histogram
from dwp.nn.precision import at_least_float32

# Least share of the variance that lies between the two classes of a histogram; for one normal mode it is
# 0.64, for a uniform distribution 0.75.
SEPARATED = 0.8

Threshold = float | str | Mapping[str, float]
"""Log dropout rate above which a group is pruned: a number, 'histogram' (found from the rates of all layers
with one kind of scales), or a number for each layer by its name; other layers keep all groups."""


@dataclass(frozen=True)
class Masked:
    """The plain network of posterior means, with zeros for pruned weights.

    Attributes:
        network: the network; its layers have their original sizes.
        thresholds: threshold of each layer whose groups are pruned, by name.
        pruned: number of pruned groups of each such layer.
        variances: posterior variance of each weight, by the name of its layer; of Bayesian layers with
            variances in closed form.
    """

    network: nn.Module
    thresholds: dict[str, float]
    pruned: dict[str, int]
    variances: dict[str, Tensor]


def named_layers(model: nn.Module) -> dict[str, BayesianLayer]:
    """Return the Bayesian layers of a model by name; of several names, the first."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BayesianLayer)}


def log_dropout(model: nn.Module) -> dict[str, Tensor]:
    """Return the log dropout rate of every group, [g], by the name of its layer; see `Scales.log_dropout`."""
    layers = named_layers(model)
    return {
        name: layer.scales.log_dropout().detach()
        for name, layer in layers.items()
        if layer.scales is not None
    }


def find_threshold(log_rates: Tensor) -> float:
    """Return the threshold between the two modes of log dropout rates [n], by Otsu's rule.

    Raises:
        InputError: they do not form two separate modes.
    """
    # Means relative to deviations, or modes; the histogram is of their logarithms.
    norms = (-0.5 * log_rates.double()).exp().cpu().numpy()
    shown = histogram(norms)
    centres = (shown.log10_edges[:-1] + shown.log10_edges[1:]) / 2
    cut = math.log10(choose_threshold(shown, "otsu"))
    below, weights = centres < cut, shown.counts / shown.counts.sum()
    share = weights[below].sum()
    total = np.average((centres - weights @ centres) ** 2, weights=weights)
    if 0 < share < 1:
        low = np.average(centres[below], weights=weights[below])
        high = np.average(centres[~below], weights=weights[~below])
        if share * (1 - share) * (high - low) ** 2 >= SEPARATED * total:
            return -2 * math.log(10) * cut
    raise InputError(
        f"threshold: the log dropout rates of {len(log_rates)} groups, from {log_rates.min():.3g} to "
        f"{log_rates.max():.3g}, do not have two separate modes; train for longer, or give a number"
    )


def thresholds(model: nn.Module, threshold: Threshold) -> dict[str, float]:
    """Return the threshold of each layer with scales, by name; see `Threshold`.

    Raises:
        InputError: there are no two modes, or a name is not that of a layer with scales.
    """
    rates = log_dropout(model)
    if isinstance(threshold, Mapping):
        for name in threshold:
            if name not in rates:
                raise unknown("threshold: layer with scales", name, rates)
        return dict(threshold)
    if isinstance(threshold, str):
        if threshold != "histogram":
            raise unknown("threshold", threshold, ["a number", "histogram"])
        layers = named_layers(model)
        by_kind: dict[type, list[str]] = {}
        for name in rates:
            by_kind.setdefault(type(layers[name].scales), []).append(name)
        found: dict[str, float] = {}
        for names in by_kind.values():
            value = find_threshold(torch.cat([rates[name] for name in names]))
            found |= dict.fromkeys(names, value)
        return found
    return dict.fromkeys(rates, float(threshold))


@torch.no_grad()
def mask(
    model: nn.Module, threshold: Threshold = "histogram", weight_threshold: float | None = None
) -> Masked:
    """Return the plain network of posterior means, with zeros for pruned weights; the model is unchanged.

    Args:
        model: a Bayesian model; a Bayesian layer by itself gives a network of one layer.
        threshold: of the log dropout rates of groups; a layer without scales has none.
        weight_threshold: of log(variance / mean²) of single weights, in layers of Gaussian posteriors; None
            keeps all single weights. Published results for sparse variational dropout use 3.

    Raises:
        InputError: the model has no Bayesian layer, is recurrent, or no layer has scales and there is no
            `weight_threshold`; or see `thresholds`.
    """
    if isinstance(model, BayesianLayer):
        model = nn.Sequential(model)
    layers = named_layers(model)
    if not layers:
        raise InputError(f"shrink: a {type(model).__name__} without Bayesian layers; nothing can be pruned")
    if any(isinstance(module, BayesLSTM | BayesEmbedding) for module in model.modules()):
        raise InputError(
            f"shrink: a {type(model).__name__} is recurrent; use dwp.compression.recurrent.shrink_recurrent"
        )
    if weight_threshold is None and all(layer.scales is None for layer in layers.values()):
        raise InputError(
            "shrink: no layer has scales; convert the model with make_bayesian(…, scales='normal_jeffreys'), "
            "or give weight_threshold"
        )
    limits = thresholds(model, threshold) if log_dropout(model) else {}
    network = copy.deepcopy(model)
    pruned, variances, plain = {}, {}, {}
    for name, layer in layers.items():
        kept = torch.ones(layer.posterior.shape, dtype=torch.bool, device=next(layer.parameters()).device)
        if name in limits and layer.scales is not None:
            dropped = layer.scales.log_dropout() > limits[name]
            pruned[name] = int(dropped.sum())
            kept = kept & ~layer.by_group(dropped)
        if weight_threshold is not None and isinstance(layer.posterior, Factorised):
            mean, log_variance = map(at_least_float32, layer.posterior.moments())
            kept = kept & (log_variance - (mean.square() + 1e-16).log() <= weight_threshold)
        plain[layer] = _plain(layer, layer.draw(sampled=False) * kept)
        try:
            variances[name] = layer.weight_moments()[1]
        except InputError:
            continue
    for name, module in model.named_modules(remove_duplicate=False):
        if module in plain:
            network.set_submodule(name, plain[module])
    network.__dict__.pop("prior_report", None)
    return Masked(network, limits, pruned, variances)


def _plain(layer: BayesianLayer, weight: Tensor) -> nn.Module:
    """Return an ordinary layer of the same arguments with a given weight, and a copy of the bias."""
    kind: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    bias = layer.bias
    plain: Any
    if isinstance(layer, BayesConv):
        options = ["stride", "padding", "dilation", "groups", "padding_mode"]
        if isinstance(layer, BayesConvTranspose):
            options.append("output_padding")
        kind |= {option: getattr(layer, option) for option in options}
        sizes = layer.in_channels, layer.out_channels, layer.kernel_size
        plain = layer.ordinary(*sizes, bias=bias is not None, **kind)
    else:
        outputs, inputs = weight.shape
        plain = nn.Linear(inputs, outputs, bias is not None, **kind)
    plain.weight.copy_(weight)
    if bias is not None:
        plain.bias.copy_(bias)
    plain.weight.requires_grad_(next(layer.posterior.parameters()).requires_grad)
    return plain.train(layer.training)
