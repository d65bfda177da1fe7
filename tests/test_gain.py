"""Scale of drawn kernels: by fan-in, and by the outputs for a batch of inputs."""

import copy

import pytest
import torch
from prior_helpers import seeded, smooth, vae
from torch import nn

from dwp import InputError, init_
from dwp.bayes.prior_choice import fan_in
from dwp.initialisation import build_initialised
from dwp.nn.spec import Conv, Network
from dwp.priors.standard_normal import StandardNormal

GAINS = pytest.mark.parametrize("gain", ["fan_in", "inputs"])


def deep(depth=8):
    """A plain network of 3×3 convolutions and ReLUs, by He's rule, and noise for it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1)]
    for _ in range(depth - 1):
        layers += [nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.constant_(layer.bias, 0.1)
    return nn.Sequential(*layers), torch.randn(8, 3, 16, 16)


def mean_squares(model, x):
    found = []
    handles = [
        layer.register_forward_hook(lambda layer, x, y: found.append(y.double().square().mean().item()))
        for layer in model[::2]
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 6, (1, 5)),
        nn.Linear(7, 5),
    ],
)
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_fan_in_gives_the_mean_square_of_he(layer, scale):
    report = init_(layer, [], default=StandardNormal(1, scale=scale), gain="fan_in", generator=seeded())
    assert layer.weight.square().mean().item() == pytest.approx(2 / fan_in(layer), rel=1e-6)
    assert report.layers[0].after == pytest.approx((2 / fan_in(layer)) ** 0.5)


def test_the_default_is_the_fan_in():
    (model, _), (other, _) = deep(3), deep(3)
    init_(model, vae(3), generator=seeded())
    init_(other, vae(3), gain="fan_in", generator=seeded())
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


@GAINS
def test_the_factor_is_one_for_a_layer_and_the_draws_are_the_same(gain):
    (model, x), prior = deep(3), vae(3)
    plain = copy.deepcopy(model)
    init_(plain, prior, gain=None, generator=seeded())
    state = torch.get_rng_state()
    init_(model, prior, gain=x if gain == "inputs" else gain, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    for scaled, drawn in zip(model[::2], plain[::2], strict=True):
        factors = scaled.weight / drawn.weight
        torch.testing.assert_close(factors, factors.mean().expand_as(factors), rtol=1e-4, atol=0)
        assert torch.equal(scaled.bias, drawn.bias)


def test_inputs_give_the_outputs_the_mean_squares_of_he():
    model, x = deep()
    for layer in model[::2]:
        nn.init.zeros_(layer.bias)
    # The reference: several draws by He's rule.
    draws = []
    for _ in range(8):
        for layer in model[::2]:
            nn.init.kaiming_normal_(layer.weight)
        draws.append(mean_squares(model, x))
    reference = torch.tensor(draws).log().mean(0).exp()
    found = {}
    for name, gain in (("none", None), ("fan_in", "fan_in"), ("inputs", x)):
        init_(model, smooth(0.3), gain=gain, generator=seeded())
        found[name] = torch.tensor(mean_squares(model, x)) / reference
    assert found["none"].max() > 1e6
    assert found["fan_in"].max() > 10
    assert found["inputs"].min() > 0.5
    assert found["inputs"].max() < 2


def test_a_scale_of_the_prior_does_not_matter():
    weights = []
    for scale in (0.02, 5.0):
        model, x = deep(3)
        init_(model, StandardNormal(3, scale=scale), gain=x, generator=seeded())
        weights.append(torch.cat([layer.weight.flatten() for layer in model[::2]]))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


def test_a_batch_leaves_everything_but_the_weights_alone():
    model, x = deep(3)
    model.insert(1, nn.BatchNorm2d(32))
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = init_(model, vae(3), gain=x, generator=seeded())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{name}.weight" for name in report.changed}
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_that_are_shared_unused_or_compute_something_else():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight / weight.std(), self.bias)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.twice = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.other, self.unused = Standardised(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.other(self.twice(self.twice(self.stem(x))))

    model = Model()
    init_(model, smooth(), gain=torch.randn(2, 3, 12, 12), generator=seeded())
    for layer in (model.other, model.unused):
        assert layer.weight.square().mean().item() == pytest.approx(2 / fan_in(layer), rel=1e-5)


def test_outputs_whose_squares_overflow():
    weights = []
    for size in (1, 1e25):
        model, x = deep(3)
        for layer in model[::2]:
            nn.init.zeros_(layer.bias)
        init_(model, smooth(), gain=size * x, generator=seeded())
        weights.append(torch.cat([layer.weight.flatten() for layer in model[::2]]))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@GAINS
def test_every_precision(dtype, gain):
    model, x = deep(4)
    model, x = model.to(dtype), x.to(dtype)
    init_(model, smooth(50.0), gain=x if gain == "inputs" else gain, generator=seeded())
    assert model(x).isfinite().all()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_unknown_gains_are_refused():
    model, _ = deep(2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="gain: 'he' is not known; use one of fan_in, a batch of inputs"):
        init_(model, vae(3), gain="he")
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_batch_that_the_model_cannot_take_leaves_the_model_unchanged():
    model, _ = deep(3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="channels"):
        init_(model, vae(3), gain=torch.randn(2, 5, 16, 16))
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert not any(module._forward_hooks for module in model.modules())


def test_kernels_of_zero_stay_zero():
    model, x = deep(2)
    prior = smooth()
    prior.mean.zero_()
    prior.factor.zero_()
    for gain in ("fan_in", x):
        init_(model, prior, gain=gain)
        assert not any(layer.weight.any() for layer in model[::2])


def test_networks_of_experiments_are_not_scaled():
    network = Network(layers=(Conv(conv=4, kernel=3),), batch_norm=False)
    prior = vae(3)
    model = build_initialised(network, (1, 8, 8), 3, 0, origins={"conv1": prior})
    generator = torch.Generator().manual_seed(0)
    nn.init.xavier_uniform_(torch.empty(4, 1, 3, 3), generator=generator)
    assert torch.equal(model.conv1.weight, prior.sample(4, generator).view(4, 1, 3, 3))
