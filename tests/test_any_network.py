"""Initialisation and conversion of every classification model of torchvision, and of many of timm."""

import math

import pytest
import torch
from architectures import TIMM, TORCHVISION, build, images
from prior_helpers import seeded, smooth
from torch import nn
from torch.nn.modules.conv import _ConvNd

from dwp import Noise, init_, initialisation, make_bayesian, set_noise
from dwp.bayes.layers import BayesianLayer
from dwp.bayes.prior_choice import computes_else, fan_in
from dwp.priors.standard_normal import StandardNormal

PRIORS = [StandardNormal(size, scale=0.05) for size in (3, 5, 7, 11)]
# The real weights of one or two small models of each family.
SMALL = [
    *(
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
    ),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t"),
]


def check_report(report, model):
    """Assert that the report is on every layer of a converted model, and says why one was left."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear | BayesianLayer)
    }
    rows = {row.name: row for row in report}
    assert len(rows) == len(report)
    assert rows.keys() >= found.keys()
    for name, module in found.items():
        row = rows[name]
        assert bool(row.prior) is isinstance(module, BayesianLayer) is not bool(row.reason)
        assert row.kind == (row.kind if row.prior else type(module).__name__)
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name in rows.keys() - found.keys():
        assert rows[name].shape == parameters[name]
        assert rows[name].reason == "neither a convolution nor a linear layer"
    assert len(str(report).splitlines()) >= len(report) + 2


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_model_of_torchvision_is_converted(name):
    model = make_bayesian(build(name, meta=True), PRIORS, default="standard_normal")
    report = model.prior_report
    check_report(report, model)
    assert not [row.name for row in report if row.reason and row.kind in ("Conv2d", "Linear")]
    assert all(math.isnan(row.before) for row in report)
    assert model(images(name, model, 2)).shape == (2, 1000)


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
def test_conversion_keeps_what_a_model_computes(name):
    model = build(name)
    x = images(name, model)
    with torch.no_grad():
        # Before the classifier, which some models start at zero.
        compute = getattr(model, "forward_features", model)
        before = compute(x)
        assert make_bayesian(model, PRIORS, default="standard_normal") is model
        assert model(x).isfinite().all()
        set_noise(model, Noise.NONE)
        torch.testing.assert_close(compute(x), before)
    report = model.prior_report
    check_report(report, model)
    assert all(row.after == pytest.approx(row.before) for row in report)


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
def test_initialisation_fills_every_layer(name):
    model = build(name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = init_(model, PRIORS, default="standard_normal", generator=seeded())
    check_initialised(report, before, model)
    with torch.no_grad():
        assert model(images(name, model)).isfinite().all()


def check_initialised(report, before, model):
    """Assert that the weights of the layers with a prior have changed, and nothing else."""
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{name}.weight" for name in report.changed}
    layers = {name for name, module in model.named_modules() if isinstance(module, _ConvNd | nn.Linear)}
    assert set(report.changed) == layers
    for row in report:
        weight = model.get_parameter(f"{row.name}.weight" if row.prior else row.name)
        assert row.after == pytest.approx(weight.square().mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
@torch.no_grad()
def test_a_gain_keeps_every_layer_within_a_factor_of_two_of_he(name, monkeypatch):
    monkeypatch.setattr(initialisation, "_HE_DRAWS", 2)
    model, priors = build(name), [smooth(size=size) for size in (3, 5, 7, 11)]
    x = images(name, model)

    def initialise(gain):
        return init_(model, priors, default="standard_normal", gain=gain, generator=seeded())

    report = initialise("fan_in")
    layers = {row: model.get_submodule(row) for row in report.changed}
    for row in report:
        if row.prior:
            assert row.after == pytest.approx((2 / fan_in(layers[row.name])) ** 0.5, rel=1e-3)
    layers = {row: layer for row, layer in layers.items() if not computes_else(layer)}
    for layer in layers.values():
        if layer.bias is not None:
            layer.bias.zero_()
    by_he, generator = [], torch.Generator().manual_seed(0)
    for _ in range(2):
        for layer in layers.values():
            noise = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.copy_((2 / fan_in(layer)) ** 0.5 * noise)
        by_he.append(mean_squares(model, layers, x))
    initialise(x)
    found = mean_squares(model, layers, x)
    for row in found:
        reference = math.prod(one[row] for one in by_he) ** 0.5
        assert 0.5 * reference <= found[row] <= 2 * reference, row


def mean_squares(model, layers, x):
    """Return the mean square of the outputs of each layer that the model calls, at its first use."""
    found, handles = {}, []
    for row, layer in layers.items():

        def record(layer, x, y, row=row):
            found.setdefault(row, y.double().square().mean().item())

        handles.append(layer.register_forward_hook(record))
    model(x)
    for handle in handles:
        handle.remove()
    return found
