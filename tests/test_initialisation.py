"""Initialisation: from priors, by classical rules, of a whole network."""

import copy
import math

import pytest
import scipy.stats
import torch
from network_samples import described
from torch import nn

from dwp import init_
from dwp.errors import InputError
from dwp.initialisation import build_initialised, classical_, load_
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

NETWORK = described(
    [{"conv": 6, "kernel": 5, "pool": 2}, {"conv": 8, "kernel": 3}, {"linear": 9}], batch_norm=True
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vae(k):
    torch.manual_seed(k)
    return VAE(k, hidden=4, latent=2)


class Users(nn.Module):
    """A user's model: nested, with a depthwise, a 1×1 and an oblong convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.ModuleList([nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)])
        self.oblong = nn.Conv2d(16, 4, (1, 3), bias=False)
        self.head = nn.Linear(4, 2)


def test_kernels_are_the_samples_of_the_prior_in_order():
    model, prior = Users(), vae(3)
    before = copy.deepcopy(model.state_dict())
    assert init_(model, [prior], gain=None, generator=seeded()).changed == ["stem", "block.0"]
    generator = seeded()
    for layer in (model.stem, model.block[0]):
        outputs, inputs = layer.weight.shape[:2]
        expected = prior.sample(outputs * inputs, generator)
        assert torch.equal(layer.weight, expected.view(outputs, inputs, 3, 3))
    after = model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "stem.weight",
        "block.0.weight",
    }


def test_several_priors_fill_their_sizes():
    model = Users()
    priors = [StandardNormal(1, scale=9.0), vae(3)]
    assert init_(model, priors, gain=None).changed == ["stem", "block.0", "block.1"]
    assert model.block[1].weight.std().item() == pytest.approx(9, rel=0.3)


def test_mean_leaves_out_the_noise():
    noisy, quiet, prior = Users(), Users(), vae(3)
    init_(noisy, [prior], gain=None, generator=seeded())
    init_(quiet, [prior], mean=True, gain=None, generator=seeded())
    assert torch.equal(quiet.stem.weight.flatten(0, 1)[:, None], prior.sample(24, seeded(), mean=True))
    assert quiet.stem.weight.std() < noisy.stem.weight.std()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_memory_format_of_the_model_are_kept(dtype):
    model = Users().to(dtype).to(memory_format=torch.channels_last)
    init_(model, [vae(3)], gain=None, generator=seeded())
    assert model.stem.weight.dtype == dtype
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)
    expected = vae(3).sample(24, seeded()).view(8, 3, 3, 3).to(dtype)
    assert torch.equal(model.stem.weight, expected)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ([vae(3), StandardNormal(3)], "two priors over 3×3 kernels; give one"),
        ([vae(5), vae(7)], "the model has no 5×5 convolution for this prior; it has 1×1, 1×3, 3×3"),
        ([LogUniform(3)], "log_uniform cannot be sampled from"),
    ],
)
def test_refusals(priors, message):
    model = Users()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        init_(model, priors)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_prior_that_cannot_be_sampled_from_leaves_the_other_layers_alone():
    model = Users()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="log_uniform cannot be sampled from"):
        init_(model, [vae(3), LogUniform(1)])
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(InputError, match="it has none"):
        init_(nn.Linear(3, 3), [vae(3)])


@pytest.mark.parametrize(
    ("rule", "variance"),
    [("xavier", lambda fan_in, fan_out: 2 / (fan_in + fan_out)), ("he", lambda fan_in, fan_out: 2 / fan_in)],
)
def test_classical_rules_have_their_variances(rule, variance):
    model = nn.Sequential(nn.Conv2d(20, 40, 5), nn.Conv2d(40, 10, 3, bias=False), nn.Linear(7, 7))
    linear = model[2].weight.clone()
    classical_(model, rule, seeded())
    for layer in model[:2]:
        k2 = layer.weight[0, 0].numel()
        expected = variance(layer.in_channels * k2, layer.out_channels * k2)
        bound = math.sqrt(3 * expected)
        weights = layer.weight.detach().flatten().numpy()
        assert weights.var() == pytest.approx(expected, rel=0.05)
        assert scipy.stats.kstest(weights, "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    assert bool((model[0].bias == 0).all())
    assert torch.equal(model[2].weight, linear)


@pytest.mark.parametrize("rule", ["xavier", "he"])
@pytest.mark.parametrize("groups", [1, 2])
def test_classical_rules_keep_the_scale_of_what_passes_a_transposed_convolution(rule, groups):
    model = nn.ConvTranspose2d(24, 8, 5, groups=groups)
    classical_(model, rule, seeded())
    # The weights that one output sums over, and those that multiply one input.
    fan_in, fan_out = 24 // groups * 25, 8 // groups * 25
    expected = 2 / (fan_in + fan_out) if rule == "xavier" else 2 / fan_in
    weights = model.weight.detach().flatten().numpy()
    assert weights.var() == pytest.approx(expected, rel=0.07)
    bound = math.sqrt(3 * expected)
    assert scipy.stats.kstest(weights, "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    assert bool((model.bias == 0).all())


def test_transposed_convolutions_are_filled_too():
    model, prior = nn.Sequential(nn.ConvTranspose2d(6, 4, 3, groups=2), nn.ConvTranspose2d(4, 1, 5)), vae(3)
    large = model[1].weight.clone()
    assert init_(model, [prior], gain=None, generator=seeded()).changed == ["0"]
    assert torch.equal(model[0].weight, prior.sample(12, seeded()).view(6, 2, 3, 3))
    assert torch.equal(model[1].weight, large)


def test_unknown_rules_are_refused():
    with pytest.raises(InputError, match="'lecun' is not known; use one of xavier, he, the name of a prior"):
        classical_(Users(), "lecun")


# A whole network


def begin(seed, conv1="xavier", conv2="xavier", **arguments):
    origins = {"conv1": conv1, "conv2": conv2}
    return build_initialised(NETWORK, (1, 16, 16), 4, seed, origins=origins, **arguments).state_dict()


def test_start_is_a_function_of_the_seed():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = begin(3, vae(5))
    torch.set_rng_state(state)
    state = torch.get_rng_state()
    begin(3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    again, other = begin(3, vae(5)), begin(4, vae(5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("conv1.weight", "conv2.weight", "linear3.weight", "classifier.weight"):
        assert not torch.equal(first[name], other[name])


def test_methods_start_from_the_same_classifier():
    xavier, he, drawn = begin(3), begin(3, "he", "he"), begin(3, vae(5), vae(3))
    for name in ("linear3.weight", "linear3.bias", "classifier.weight", "classifier.bias"):
        assert torch.equal(xavier[name], he[name])
        assert torch.equal(xavier[name], drawn[name])
    for name in ("conv1.weight", "conv2.weight"):
        assert not torch.equal(xavier[name], drawn[name])
    assert bool((drawn["conv1.bias"] == 0).all())


def test_start_passes_width_and_mean_on():
    assert begin(0, width=0.5)["conv1.weight"].shape == (3, 1, 5, 5)
    mean, noisy = (begin(0, vae(5), vae(3), mean=mean)["conv2.weight"] for mean in (True, False))
    assert mean.std() < noisy.std()


def test_each_convolution_has_its_own_origin():
    mixed = begin(3, vae(5), "he")
    assert torch.equal(mixed["conv1.weight"], begin(3, vae(5), "xavier")["conv1.weight"])
    bound = math.sqrt(6 / (6 * 9))
    assert 0.9 * bound < mixed["conv2.weight"].abs().max() <= bound


# A pretrained network


def test_a_pretrained_network_is_taken_over_without_its_classifier():
    trained = build_initialised(NETWORK, (1, 16, 16), 4, seed=1)
    with torch.no_grad():
        for tensor in trained.state_dict().values():
            tensor.add_(1)
    model = build_initialised(NETWORK, (1, 16, 16), 4, seed=2)
    before = copy.deepcopy(model.state_dict())
    names = load_(model, trained.state_dict())
    assert set(before) - set(names) == {"classifier.weight", "classifier.bias"}
    for name, tensor in model.state_dict().items():
        expected = trained.state_dict()[name] if name in names else before[name]
        assert torch.equal(tensor, expected)


def test_a_pretrained_network_of_other_layers_is_refused():
    model = build_initialised(NETWORK, (1, 16, 16), 4, seed=2)
    state = build_initialised(NETWORK, (1, 16, 16), 4, seed=1, width=0.5).state_dict()
    message = r"pretrained network: conv1.weight is \[6, 1, 5, 5\] here; there it is \[3, 1, 5, 5\]"
    with pytest.raises(InputError, match=message):
        load_(model, state)
    with pytest.raises(InputError, match=r"conv1.weight .* is not there"):
        load_(model, {})
