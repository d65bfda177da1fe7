"""The report of initialisation and conversion on every layer."""

import copy
import pickle

import pytest
import torch
from prior_helpers import seeded, vae
from torch import nn

from dwp import init_, make_bayesian
from dwp.bayes.layers import BayesConv2d
from dwp.priors.standard_normal import StandardNormal


class Every(nn.Module):
    """A layer of each kind, one of them at two places, and a parameter of the model itself."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.ones(4, 5))
        self.token = nn.Parameter(torch.ones(1, 1, 5))
        self.conv = nn.Conv2d(2, 3, 3)
        self.again = self.conv
        self.oblong = nn.Conv2d(3, 3, (1, 5), groups=3)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.line = nn.Conv1d(2, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.attention = nn.MultiheadAttention(4, 1)
        self.memory = nn.Embedding(3, 4)
        self.lazy = nn.LazyLinear(3)
        self.head = nn.Linear(4, 2)


OTHER = "neither a convolution nor a linear layer"


def test_every_layer_is_in_the_report_of_an_initialisation():
    model, prior = Every(), vae(3)
    before = model.conv.weight.square().mean().sqrt().item()
    report = init_(
        model, {3: prior, 7: StandardNormal(7), "up": StandardNormal(2), "head": None}, generator=seeded()
    )
    assert [(row.name, row.kind, row.shape, row.prior, row.reason) for row in report] == [
        ("position", "Every", (4, 5), "", OTHER),
        ("conv", "Conv2d", (3, 2, 3, 3), "vae 3×3", ""),
        ("oblong", "Conv2d", (3, 1, 1, 5), "", "no prior over 1×5 kernels, and no default"),
        ("up", "ConvTranspose2d", (3, 2, 2, 2), "standard_normal 2×2", ""),
        ("line", "Conv1d", (2, 2, 3), "", "no prior over 3 kernels, and no default"),
        ("attention.in_proj_weight", "MultiheadAttention", (12, 4), "", OTHER),
        (
            "attention.out_proj",
            "NonDynamicallyQuantizableLinear",
            (4, 4),
            "",
            "no prior of its name, and no default",
        ),
        ("memory.weight", "Embedding", (3, 4), "", OTHER),
        ("lazy", "LazyLinear", (), "", "no prior of its name, and no default"),
        ("head", "Linear", (2, 4), "", "None is given for head"),
    ]
    assert report.changed == ["conv", "up"]
    assert report.unused == (7,)
    rows = {row.name: row for row in report}
    assert rows["conv"].before == pytest.approx(before)
    assert rows["conv"].after == pytest.approx(model.conv.weight.square().mean().sqrt().item())
    assert (
        rows["head"].before
        == rows["head"].after
        == pytest.approx(model.head.weight.square().mean().sqrt().item())
    )


def test_the_report_of_a_conversion_is_attached():
    model = make_bayesian(
        Every(), {3: StandardNormal(3), "head": None, "lazy": None}, default="standard_normal"
    )
    rows = {row.name: row for row in model.prior_report}
    assert [name for name, row in rows.items() if row.prior] == [
        *("conv", "oblong", "up", "line"),
        "attention.out_proj",
    ]
    assert rows["up"].prior == rows["line"].prior == "standard_normal 1×1"
    assert rows["lazy"].reason == "None is given for lazy"
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert str(twin.prior_report) == str(model.prior_report)
    assert not any("report" in name for name in model.state_dict())
    layer = make_bayesian(nn.Conv2d(1, 1, 3), StandardNormal(3))
    assert [row.name for row in layer.prior_report] == [""]


def test_the_scale_of_a_bayesian_layer_is_that_of_its_mean():
    model = make_bayesian(nn.Sequential(nn.Conv2d(2, 3, 3)), vae(3), "latent")
    (row,) = model.prior_report
    decoded = model[0].posterior.weight(sampled=False)
    assert row.after == pytest.approx(decoded.square().mean().sqrt().item()) != row.before


def test_it_prints_as_a_table():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 4))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(0.25)
    priors = [StandardNormal(3, scale=1e-9), StandardNormal(5)]
    report = init_(model, priors, gain=None, generator=seeded())
    after = f"{report.layers[0].after:.3g}"
    assert str(report).splitlines() == [
        "layer  kind    weight   scale            prior",
        f"0      Conv2d  2×1×3×3  0.25 → {after}  standard_normal 3×3",
        "2      Linear  4×2      0.25             none: no prior of its name, and no default",
        "1 of 2 layers have a prior (69% of the weights).",
        "Unused: no layer has kernels of 5×5.",
    ]


def test_a_default_function_may_leave_a_layer():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    report = init_(model, StandardNormal(3), default=lambda layer: None)
    assert report.layers[1].reason == "its default is None"


def test_bayesian_layers_keep_the_sizes_and_arguments_that_a_model_may_read():
    convolution = nn.Conv2d(4, 6, (3, 5), 2, 1, groups=2, padding_mode="reflect")
    model = make_bayesian(nn.Sequential(convolution, nn.Linear(7, 8)), [], default="standard_normal")
    assert isinstance(model[0], BayesConv2d)
    for layer, replaced in ((model[0], convolution), (model[1], nn.Linear(7, 8))):
        for name in replaced.__constants__:
            assert getattr(layer, name) == getattr(replaced, name)
    assert (model[0].kernel_size, model[1].in_features) == ((3, 5), 7)
    assert model[0].weight.shape == (6, 2, 3, 5)
