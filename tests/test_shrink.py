"""Smaller networks: thresholds, masks, channels that are removed, and what cannot be removed."""

import copy

import pytest
import sparse_problem
import torch
from architectures import torchvision
from bayesian_samples import PRIORS, small_net
from torch import nn
from torch.nn import functional

import dwp
from dwp import InputError, make_bayesian
from dwp.bayes.layers import bayesian_layers
from dwp.compression.masks import find_threshold, log_dropout
from dwp.compression.resizing import LinearOfSome
from dwp.compression.shrinking import masked, shrink
from dwp.priors.ard import ARD
from dwp.priors.hierarchical_ard import HierarchicalARD
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal


def bayesian(model, scales="normal_jeffreys", share=0.5, seed=0):
    """Make a model in evaluation mode Bayesian, with random batch norms, and drop a share of the groups."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    make_bayesian(model.eval(), {}, default="standard_normal", scales=scales)
    for layer in bayesian_layers(model):
        if layer.scales is not None:
            drop(layer, torch.rand(layer.scales.groups, generator=generator) < share)
    return model


def drop(layer, chosen):
    """Set the log dropout rates of groups of a layer below zero, and of the chosen ones to about 5."""
    z = layer.scales
    if hasattr(z, "log_variance"):
        z.log_variance.data = torch.where(chosen, 5.0, -5.0).to(z.log_variance)
    else:
        z.local_mean.data[0] = torch.where(chosen, -10.0, 2.0) / z.unit


def check(model, x, threshold=0.0, tolerance=1e-10, **options):
    """Assert that the smaller network equals the masked one; return it."""
    before = copy.deepcopy(model.state_dict())
    small, whole = shrink(model, threshold, **options), masked(model, threshold, **options)
    with torch.no_grad():
        torch.testing.assert_close(small(x), whole(x), rtol=tolerance, atol=tolerance)
    assert not bayesian_layers(small)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shapes = {name: tensor.shape for name, tensor in small.named_parameters()}
    assert sum(map(torch.Size.numel, shapes.values())) < sum(p.numel() for p in whole.parameters())
    return small


def sizes(network):
    return [
        list(layer.weight.shape) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]


def images(size=12, channels=1, number=3):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(number, channels, size, size, dtype=torch.float64, generator=generator)


# Networks that can be made smaller


def sequential():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 6, 3), nn.ELU(), nn.Dropout2d(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(24, 10), nn.BatchNorm1d(10), nn.Sigmoid(), nn.Linear(10, 3), nn.LogSoftmax(1)),
    )


@pytest.mark.parametrize("scales", ["normal_jeffreys", "horseshoe"])
@pytest.mark.parametrize("seed", range(3))
def test_a_sequential_network(scales, seed):
    torch.manual_seed(0)
    model = bayesian(sequential().double(), scales, share=0.3, seed=seed)
    small = check(model, images())
    first, second, hidden, last = sizes(small)
    kept = [int((layer.scales.log_dropout() <= 0).sum()) for layer in bayesian_layers(model)]
    assert (first[0], second[:2], last) == (kept[0], [kept[1], kept[0]], [3, kept[3]])
    assert hidden[0] == kept[3]
    assert small[1].num_features == kept[0]
    assert small[10].num_features == kept[3]


def test_sizes_by_hand():
    torch.manual_seed(0)
    model = bayesian(sequential().double(), share=0)
    for layer, chosen in zip(bayesian_layers(model), ([1, 3], [0], [4, 5, 6, 7, 9], [2]), strict=True):
        rates = torch.zeros(layer.scales.groups, dtype=torch.bool)
        rates[chosen] = True
        drop(layer, rates)
    small = check(model, images())
    # Channel 0 of the second convolution is pruned. Of the next layer's inputs, 4 to a channel, those of
    # channel 1 are all pruned, so that channel goes too; of channel 2, one is.
    assert sizes(small) == [[6, 1, 3, 3], [4, 6, 3, 3], [9, 15], [3, 9]]
    assert isinstance(small[9], LinearOfSome)
    report = small.shrink_report
    assert [row.after for row in report.rows] == [tuple(size) for size in sizes(small)]
    assert report.compression == pytest.approx((72 + 432 + 240 + 30) / (54 + 216 + 135 + 27))
    assert "0      8×1×3×3  6×1×3×3" in str(report)


def test_the_masked_network_by_hand():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(600, 3))
    plain = plain.double().eval()
    model = bayesian(plain, share=0)
    x, whole = images(), masked(model, 0.0)
    outputs, inputs = torch.arange(6) == 2, torch.arange(600) % 7 == 0
    drop(model[0], outputs)
    drop(model[4], inputs)
    with torch.no_grad():
        # Without pruned groups it is the posterior mean.
        dwp.set_noise(model, dwp.Noise.NONE)
        torch.testing.assert_close(whole(x), model(x))
        y = torch.relu(whole[1](whole[0](x)))
        y[:, outputs] = 0
        expected = functional.linear(y.flatten(1) * ~inputs, whole[4].weight, whole[4].bias)
        torch.testing.assert_close(masked(model, 0.0)(x), expected)


class Functional(nn.Module):
    """A network in functions: pooling, views, sums with a skip, a concatenation, a mean over pixels."""

    def __init__(self, view="view"):
        super().__init__()
        self.view = view
        self.a, self.b, self.c = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(12, 5, 3),
        )
        self.shared = nn.Conv2d(5, 5, 1)
        self.hidden, self.head = nn.Linear(5 if view == "mean" else 20, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = functional.relu(functional.max_pool2d(self.a(x), 2))
        y = x + functional.leaky_relu(self.b(x))
        x = torch.relu(self.c(torch.cat([x, y], 1)))
        x = self.shared(torch.relu(self.shared(x)))
        if self.view == "mean":
            x = x.mean((2, 3))
        elif self.view == "view":
            x = functional.avg_pool2d(x, 2).view(x.size(0), -1)
        elif self.view == "reshape":
            x = functional.adaptive_avg_pool2d(x, 2).reshape(x.shape[0], -1)
        else:
            x = torch.flatten(functional.adaptive_max_pool2d(x, 2), 1)
        return self.head(functional.dropout(torch.tanh(self.hidden(x)), training=self.training))


@pytest.mark.parametrize("view", ["view", "reshape", "flatten", "mean"])
@pytest.mark.parametrize("seed", range(3))
def test_a_network_in_functions(view, seed):
    torch.manual_seed(0)
    check(bayesian(Functional(view).double(), share=0.6, seed=seed), images())


def vgg():
    """torchvision's vgg11_bn with narrow layers."""
    narrow = [6, "M", 8, "M", 8, 8, "M", 10, 10, "M", 10, 10, "M"]
    with torch.device("meta"):
        model = torchvision.models.vgg11_bn()
    model.features = torchvision.models.vgg.make_layers(narrow, batch_norm=True)
    model.classifier[0], model.classifier[3] = nn.Linear(10 * 49, 12), nn.Linear(12, 12)
    model.classifier[6] = nn.Linear(12, 4)
    return model


def test_vgg():
    torch.manual_seed(0)
    model = bayesian(vgg().double(), share=0.3)
    small = check(model, images(32, 3, 2))
    assert small.shrink_report.compression > 1.5
    assert dwp.shrink(model, 0.0).features[0].out_channels == small.features[0].out_channels < 6


def test_resnet():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    bayesian(model, share=0.3, seed=1)
    # The channels of a stage are those of the skip: the same ones are pruned in every block.
    for stage in (model.layer1, model.layer2):
        dropped = torch.zeros(len(stage[0].bn2.weight), dtype=torch.bool)
        dropped[:10] = True
        writers = [stage[0].conv2, stage[1].conv2, *([stage[0].downsample[0]] if stage[0].downsample else [])]
        for layer in (*writers, *([model.conv1] if stage is model.layer1 else [])):
            drop(layer, dropped)
    small = check(model, torch.randn(2, 3, 32, 32), tolerance=1e-4)
    assert small.conv1.weight.shape[0] == 54
    assert small.layer2[0].downsample[0].weight.shape[:2] == (118, 54)
    assert small.layer1[0].conv1.weight.shape[0] < 64
    assert small.bn1.num_features == 54


def test_the_networks_of_this_package():
    model = make_bayesian(small_net().double().eval(), PRIORS, scales="normal_jeffreys")
    for layer in bayesian_layers(model):
        drop(layer, torch.arange(layer.scales.groups) == 1)
    small = check(model, images())
    assert type(small.conv1) is type(small_net().conv1)


def test_a_layer_by_itself_and_a_layer_of_which_nothing_is_left():
    linear = make_bayesian(nn.Linear(5, 2).double(), {}, default="standard_normal", scales="horseshoe")
    drop(linear, torch.arange(5) > 1)
    small = check(linear, torch.randn(3, 5, dtype=torch.float64))
    assert sizes(small) == [[2, 2]]
    model = bayesian(sequential().double(), share=0)
    drop(bayesian_layers(model)[1], torch.ones(6, dtype=torch.bool))
    assert sizes(check(model, images()))[:2] == [[1, 1, 3, 3], [1, 1, 3, 3]]


def test_the_smaller_network_trains():
    model = bayesian(sequential().double())
    small = shrink(model, 0.0).train()
    small(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


# Thresholds


def test_the_threshold_of_a_histogram():
    generator = torch.Generator().manual_seed(0)
    low, high = -6 + torch.randn(60, generator=generator), 4 + torch.randn(30, generator=generator)
    assert -3 < find_threshold(torch.cat([low, high])) < 2
    untrained = torch.full((40,), -9.0)
    for rates in (low, untrained, untrained[:1]):
        with pytest.raises(InputError, match="do not have two separate modes; train for longer"):
            find_threshold(rates)


def test_thresholds_by_layer_and_from_all_layers_together():
    torch.manual_seed(0)
    model = bayesian(sequential().double())
    found, given = shrink(model), shrink(model, 0.0)
    assert sizes(found) == sizes(given)
    one = shrink(model, {"0": 0.0})
    assert sizes(one)[0] == sizes(given)[0]
    assert sizes(one)[2] == [10, 24]
    assert set(log_dropout(model)) == {"0", "4", "9", "12"}


@pytest.mark.parametrize(
    "prior", [LogUniform(1, "molchanov"), ARD(1), HierarchicalARD(1)], ids=lambda p: p.kind
)
def test_single_weights_of_irrelevant_inputs_are_pruned(prior):
    model, x = sparse_problem.trained(default=prior)
    log_alpha = (model[0].posterior.log_variance - model[0].posterior.mean.square().log()).flatten()
    assert log_alpha[:2].max() + 2 < log_alpha[2:].min(), log_alpha
    middle = (log_alpha[:2].max() + log_alpha[2:].min()).item() / 2
    small = check(model, x, weight_threshold=middle, tolerance=1e-6)
    assert small[0].inputs.tolist() == [0, 1]


# What cannot be removed


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Fixed(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x).view(-1, 150))


class Scaled(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x) + 1.0)


PRUNED = "layer 0: 2 of 6 output channels are pruned, but cannot be removed: "


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 3)),
            PRUNED + "they go through 1, a GroupNorm",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, groups=2)),
            PRUNED + "they go through 1, a grouped",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 2, 3)),
            PRUNED + "zero does not stay zero in 1, a",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 2, 3)),
            "1, a batch normalisation without parameters",
        ),
        (Fixed(nn.Conv2d(1, 6, 3), nn.Linear(150, 2)), "they go through view"),
        (Scaled(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 3)), "they go through add"),
        (Branching(nn.Conv2d(1, 6, 3)), "the forward pass of a Branching cannot be traced by torch.fx"),
    ],
    ids=["GroupNorm", "groups", "Sigmoid", "BatchNorm", "view", "add", "branch"],
)
def test_channels_that_cannot_be_removed_are_refused_by_name(model, message):
    torch.manual_seed(0)
    bayesian(model.double(), share=0)
    drop(bayesian_layers(model)[0], torch.arange(6) < 2)
    with pytest.raises(InputError) as error:
        shrink(model, 0.0)
    assert message in str(error.value)


def test_unsupported_layers_away_from_pruned_channels_do_not_matter():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.GroupNorm(2, 4)).double()
    bayesian(model, scales={"0": "normal_jeffreys"})
    check(model, images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "otsu"}, "threshold: 'otsu' is not known; use one of a number, histogram"),
        ({"threshold": {"1": 0.0}}, "threshold: layer with scales: '1' is not known; use one of 0, 4, 9, 12"),
    ],
)
def test_thresholds_that_are_refused(options, message):
    model = bayesian(sequential())
    with pytest.raises(InputError) as error:
        shrink(model, **options)
    assert message in str(error.value)


def test_models_without_scales_are_refused():
    with pytest.raises(InputError, match="a Sequential without Bayesian layers; nothing can be pruned"):
        shrink(sequential())
    model = make_bayesian(sequential(), {}, default=StandardNormal(1))
    with pytest.raises(InputError, match="no layer has scales; convert the model with make_bayesian"):
        shrink(model)
