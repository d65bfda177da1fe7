"""Smaller recurrent networks: they equal the masked ones, and what is constant or unread is removed."""

import copy

import pytest
import torch
from recurrent_samples import EMBEDDING, HIDDEN, WORDS, bayesian, sequences

from dwp.bayes import scales
from dwp.bayes.layers import bayesian_layers
from dwp.bayes.recurrent import GROUPS
from dwp.compression.recurrent import GATES, masked_recurrent, shrink_recurrent
from dwp.nn.recurrent import CompactLSTM


@pytest.fixture
def tokens():
    return sequences()


def pruned(groups=GROUPS, kind="normal_jeffreys", share=0.6, seed=0, **options):
    """Return a network with random pruned weights and groups."""
    model = bayesian(groups, kind, **options)
    generator = torch.Generator().manual_seed(seed)

    def chosen(tensor):
        return torch.rand(tensor.shape, generator=generator) < share

    for layer in bayesian_layers(model):
        layer.posterior.log_variance.data[chosen(layer.posterior.mean)] = 20.0
    for one in model.modules():
        if isinstance(one, scales.NormalJeffreys):
            one.log_variance.data[chosen(one.mean)] = 20.0
        elif isinstance(one, scales.Horseshoe):
            one.local_mean.data[0, chosen(one.local_mean[0])] = -10.0 / one.unit
            one.local_mean.data[0].add_(5.0 / one.unit)
    return model


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize(
    ("groups", "share"),
    [((), 0.5), ((), 0.9), (("gates",), 0.5), (("neurons",), 0.5), (GROUPS, 0.3)],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_the_smaller_network_equals_the_masked_one(tokens, groups, share, every_step, seed):
    model = pruned(groups, share=share, every_step=every_step, seed=seed)
    before = copy.deepcopy(model.state_dict())
    small, whole = shrink_recurrent(model), masked_recurrent(model)
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), whole(tokens), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not bayesian_layers(small)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())
    kept = sum(int(p.count_nonzero()) for name, p in whole.named_parameters() if "bias" not in name)
    assert sum(int(p.count_nonzero()) for n, p in small.named_parameters() if "bias" not in n) <= kept
    assert "times fewer weights" in str(small.shrink_report)


@pytest.mark.parametrize("kind", ["normal_jeffreys", "horseshoe"])
def test_groups_are_pruned_by_their_own_threshold(tokens, kind):
    model = pruned(kind=kind, share=0.4)
    threshold = 1.0
    whole, small = (f(model, 100.0, threshold) for f in (masked_recurrent, shrink_recurrent))
    dropped = model.lstm.gates.log_dropout() > threshold
    assert 0 < dropped.sum() < len(dropped)
    assert not whole.lstm.weight_ih_l0[dropped].any()
    assert not whole.lstm.weight_hh_l0[dropped].any()
    assert whole.lstm.weight_ih_l0[~dropped].any(1).all()
    words = model.embedding.scales.log_dropout() > threshold
    assert torch.equal(whole.embedding.weight.any(1), ~words)
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), whole(tokens), rtol=1e-12, atol=1e-12)


def silenced():
    """Return a network in which chosen gates, words and units have only noise."""
    model = bayesian()
    quiet = 20.0
    # The input gates of all units, and all gates of unit 2 but its forget gate.
    model.lstm.gates.log_variance.data[:HIDDEN] = quiet
    model.lstm.gates.log_variance.data[[2, 2 + 2 * HIDDEN, 2 + 3 * HIDDEN]] = quiet
    model.embedding.scales.log_variance.data[[0, 4]] = quiet
    for z in (model.lstm.recurrent.scales, model.decoder.scales):
        z.log_variance.data[5] = quiet
    model.lstm.inputs.scales.log_variance.data[1] = quiet
    return model


def test_constant_gates_words_and_unread_units_are_removed(tokens):
    model = silenced()
    small = shrink_recurrent(model)
    assert isinstance(small.lstm, CompactLSTM)
    units = HIDDEN - 1
    assert small.decoder.in_features == units
    assert len(small.lstm.bias) == 4 * units
    # Unit 5 is gone; forget gates of all others stay, flow and output gates of all but unit 2.
    live = {divmod(int(place), units) for place in small.lstm.live}
    expected = {(1, unit) for unit in range(units)}
    expected |= {(gate, unit) for gate in (2, 3) for unit in range(units) if unit != 2}
    assert live == expected
    assert len(GATES) == 4
    assert small.lstm.weight_ih.shape == (len(live), EMBEDDING - 1)
    assert small.embedding.weight.shape == (WORDS - 2, EMBEDDING - 1)
    assert (small.embedding.rows[[0, 4]] == -1).all()
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), masked_recurrent(model)(tokens), rtol=1e-12, atol=1e-12)


def test_units_that_only_each_other_read_are_removed(tokens):
    model = bayesian(())
    for layer, places in ((model.decoder, [0, 1]), (model.lstm.recurrent, [0, 1])):
        layer.posterior.log_variance.data[:, places] = 20.0
    # Units 0 and 1 read each other.
    for reader, other in ((0, 1), (1, 0)):
        model.lstm.recurrent.posterior.log_variance.data[reader, other] = -10.0
    small = shrink_recurrent(model)
    assert small.decoder.in_features == HIDDEN - 2
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), masked_recurrent(model)(tokens), rtol=1e-12, atol=1e-12)


def test_a_network_of_noise_keeps_one_unit_input_and_word(tokens):
    model = pruned(share=2.0)
    small = shrink_recurrent(model)
    assert small.decoder.weight.shape == (WORDS, 1)
    assert small.embedding.weight.shape == (1, 1)
    assert len(small.lstm.live) == 0
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), masked_recurrent(model)(tokens), rtol=1e-12, atol=1e-12)


def test_the_smaller_network_trains_and_moves(tokens):
    small = shrink_recurrent(silenced()).float()
    small(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    _, state = small.lstm(small.embedding(tokens[:, :2]))
    whole = small.lstm(small.embedding(tokens))[0]
    torch.testing.assert_close(small.lstm(small.embedding(tokens[:, 2:]), state)[0], whole[:, 2:])
