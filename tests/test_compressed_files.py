"""Bit widths from posterior variances, rounded weights, and files of that size."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from test_shrink import bayesian, images, sequential
from torch import nn

from dwp import InputError
from dwp.bayes.layers import bayesian_layers
from dwp.compression import files
from dwp.compression.shrinking import shrink


def small(share=0.5, log_variance=-8.0, scales="normal_jeffreys"):
    torch.manual_seed(0)
    model = bayesian(sequential(), scales, share)
    for layer in bayesian_layers(model):
        layer.posterior.log_variance.data.fill_(log_variance)
    return shrink(model, 0.0)


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 13, 24])
def test_packed_numbers_are_read_back(bits):
    generator = torch.Generator().manual_seed(0)
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    whole = torch.cat([torch.tensor([low, high - 1]), torch.randint(low, high, (41,), generator=generator)])
    packed = files._pack(whole, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == math.ceil(43 * bits / 8)
    assert torch.equal(files._unpack(packed, bits, [43]), whole.double())


def test_bit_widths_by_hand():
    # The step is 1/8, the largest weight 5 steps: three bits and a sign.
    assert files.precision(torch.tensor([0.62, -0.3]), 0.2) == files.Precision(4, 0.125)
    assert files.precision(torch.tensor([0.1, -0.03]), 1.0) == files.Precision(1, 1.0)
    for deviation in (0.0, math.nan, math.inf, 1e-12):
        assert files.precision(torch.tensor([0.62]), deviation).bits == 0


def test_the_deviation_is_that_of_the_weights_that_are_left():
    torch.manual_seed(0)
    model = bayesian(sequential(), share=0.5)
    for row in shrink(model, 0.0).shrink_report.rows:
        layer = model.get_submodule(row.name)
        kept = layer.by_group(layer.scales.log_dropout() <= 0).expand(layer.posterior.shape)
        variance = layer.weight_moments()[1]
        # Pruned groups, of a variance of e⁵, do not count.
        assert row.deviation**2 < 2 * variance[kept].max() < 1


@pytest.mark.parametrize("log_variance", [-4.0, -8.0, -14.0])
def test_rounding_moves_weights_by_less_than_their_deviation(log_variance):
    network = small(log_variance=log_variance, scales="horseshoe")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = files.round_(network)
    for row in network.shrink_report.rows:
        weight = network.get_submodule(row.name).weight
        error = (weight - before[f"{row.name}.weight"]).abs().max()
        assert error <= found[row.name].step / 2 <= row.deviation / 2
        whole = weight / found[row.name].step
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() < 2 ** (found[row.name].bits - 1)
    assert torch.equal(network[0].bias, before["0.bias"])


def test_a_file_has_the_size_of_its_bits_and_loads_again(tmp_path):
    network, path = small(), tmp_path / "network.safetensors"
    unrounded = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    size = files.save(network, path)
    assert size == path.stat().st_size
    assert all(torch.equal(tensor, unrounded[name]) for name, tensor in network.state_dict().items())
    found = files.precisions(network)
    weights = {f"{name}.weight": network.get_submodule(name).weight for name in found}
    payload = sum(math.ceil(found[name[:-7]].bits * w.numel() / 8) for name, w in weights.items())
    payload += sum(t.numel() * t.element_size() for name, t in unrounded.items() if name not in weights)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["dwp"])
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == payload
    assert all(header["packed"][name]["shape"] == list(w.shape) for name, w in weights.items())
    loaded = files.load(path, sequential().eval())
    files.round_(network)
    x = images().float()
    assert torch.equal(loaded(x), network(x))
    assert repr(loaded) == repr(network)
    again = files.load(path, network)
    assert torch.equal(again(x), network(x))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def sparse(share):
    """Return a network of whose weights a share is zero, at random places."""
    torch.manual_seed(0)
    model = bayesian(perceptron(), share=0.0)
    for layer in bayesian_layers(model):
        layer.posterior.log_variance.data.fill_(-14.0)
    network = shrink(model, 0.0)
    for row in network.shrink_report.rows:
        weight = network.get_submodule(row.name).weight.data
        weight[torch.rand_like(weight) < share] = 0
    return network


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_zeros_take_no_more_than_their_places_and_are_read_back(tmp_path, share):
    network, path = sparse(share), tmp_path / "network.safetensors"
    files.save(network, path)
    loaded = files.load(path, perceptron())
    files.round_(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    stored = files.load_tensors(path, "network")[0]
    for name, one in files.precisions(network).items():
        weight = network.get_submodule(name).weight
        # In bits: places cost at most a bit each and zlib's header, values their width.
        dense, zeros = weight.numel() * one.bits, int((weight == 0).sum())
        size = 8 * sum(len(stored[key]) for key in stored if key.startswith(f"{name}.weight"))
        assert size <= min(dense, weight.numel() + 8 * 13 + (weight.numel() - zeros) * one.bits) + 8


def test_damaged_places_are_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    files.save(sparse(0.95), path)
    tensors, header = files.load_tensors(path, "network")
    (name, *_) = (key for key in tensors if key.endswith(files.PLACES))
    for changed in (tensors[name][:-6], tensors[name].flip(0), torch.zeros(0, dtype=torch.uint8)):
        files.save_tensors({**tensors, name: changed}, path, {"dwp": json.dumps(header)})
        with pytest.raises(InputError, match="is damaged"):
            files.load(path, perceptron())


def test_weights_without_variances_are_stored_as_they_are(tmp_path):
    network = small(log_variance=-60.0, scales="horseshoe")
    network.shrink_report.rows[0].__dict__["deviation"] = 0.0
    files.save(network, tmp_path / "network.safetensors")
    loaded = files.load(tmp_path / "network.safetensors", sequential().eval())
    assert torch.equal(loaded[0].weight, network[0].weight)


def test_what_is_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(InputError, match="a Sequential without posterior variances; give a"):
        files.save(sequential(), path)
    with pytest.raises(InputError, match="there is no file"):
        files.load(path, sequential())
    path.write_bytes(b"1234")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        files.load(path, sequential())
    files.save_tensors({"0.weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="is not a compressed network"):
        files.load(path, sequential())
    files.save(small(), path)
    with pytest.raises(InputError, match="is not of this Sequential"):
        files.load(path, nn.Sequential(nn.Linear(3, 2)))
    shared = nn.Conv2d(1, 1, 3)
    twice = shrink(bayesian(nn.Sequential(shared, nn.ReLU(), shared), share=0.0), 0.0)
    with pytest.raises(InputError, match="layers 0 and 2 are one; give each its own weights"):
        files.save(twice, path)
