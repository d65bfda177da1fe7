"""Bayesian recurrent networks: their noise, their KL divergence, and smaller networks."""

import copy

import pytest
import torch
from torch import nn

from dwp import InputError, Noise, kl, set_noise, shrink
from dwp.bayes import scales
from dwp.bayes.layers import bayesian_layers
from dwp.bayes.recurrent import GROUPS, BayesLSTM, make_recurrent_bayesian
from dwp.compression.recurrent import GATES, masked_recurrent, shrink_recurrent
from dwp.nn.noise import fixed_weight_sample
from dwp.nn.recurrent import CompactLSTM, RecurrentNetwork, lstm_step
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal

WORDS, EMBEDDING, HIDDEN = 11, 5, 7


def plain(**options):
    torch.manual_seed(0)
    network = RecurrentNetwork(WORDS, EMBEDDING, HIDDEN, WORDS, **options).double()
    for bias in (network.lstm.bias_ih_l0, network.lstm.bias_hh_l0):
        nn.init.normal_(bias)
    return network


def bayesian(groups=GROUPS, kind="normal_jeffreys", **options):
    return make_recurrent_bayesian(plain(**options), LogUniform(1, "molchanov"), groups=groups, kind=kind)


@pytest.fixture
def tokens():
    return torch.randint(WORDS, (3, 6), generator=torch.Generator().manual_seed(1))


def loud(model, variance=0.5):
    """Give every weight and scale a large variance."""
    for name, parameter in model.named_parameters():
        if name.endswith("log_variance"):
            parameter.data.fill_(variance).log_()
    return model


# Outputs and noise


@pytest.mark.parametrize("groups", [(), ("gates",), GROUPS], ids=str)
@pytest.mark.parametrize("every_step", [True, False])
def test_without_noise_outputs_are_those_of_the_plain_network(tokens, groups, every_step):
    model = bayesian(groups, every_step=every_step)
    set_noise(model, Noise.NONE)
    torch.testing.assert_close(model(tokens), plain(every_step=every_step)(tokens), rtol=1e-12, atol=1e-12)


def test_states_continue_as_those_of_an_lstm():
    lstm = nn.LSTM(3, 4, batch_first=True).double()
    model = BayesLSTM(lstm, StandardNormal(1))
    set_noise(model, Noise.NONE)
    x = torch.randn(2, 5, 3, dtype=torch.double)
    _, state = model(x[:, :2])
    states, (hidden, cell) = model(x[:, 2:], state)
    expected, last = lstm(x)
    torch.testing.assert_close(states, expected[:, 2:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((hidden, cell), last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", [Noise.OUTPUTS, Noise.WEIGHTS])
def test_the_noise_of_the_recurrent_layer_is_the_same_at_every_step(noise):
    """The outputs are those of one network for each sequence, whose weights are found from single steps."""
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 2, batch_first=True).double()
    kinds = dict.fromkeys(("inputs", "units", "gates"), "normal_jeffreys")
    model = loud(BayesLSTM(lstm, LogUniform(1, "molchanov"), **kinds))
    set_noise(model, noise)
    x = torch.randn(2, 4, 3, dtype=torch.double)
    drawn = []
    for layer in (model.inputs, model.recurrent):
        draw = layer.posterior.weight
        layer.posterior.weight = lambda draw=draw, *, sampled: (
            drawn.append(draw(sampled=sampled)) or drawn[-1]
        )
    z = []
    for one in (model.inputs.scales, model.recurrent.scales, model.gates):
        sample = one.sample
        one.sample = lambda shape, sample=sample: z.append(sample(shape)) or z[-1]
    states = model(x)[0]
    # One draw for all steps.
    assert [tuple(weight.shape) for weight in drawn] == [(8, 3), (8, 2)]
    assert [one.shape[-1] for one in z] == [3, 2, 8]
    for sequence in range(2):
        z_inputs, z_units, z_gates = (one[sequence] if one.ndim == 2 else one for one in z)
        hidden = cell = torch.zeros(1, 2, dtype=torch.double)
        for step in range(4):
            own = (drawn[0] * z_inputs) @ x[sequence, step] + (drawn[1] * z_units) @ hidden[0]
            hidden, cell = lstm_step((z_gates * own + model.bias)[None], cell)
            torch.testing.assert_close(states[sequence, step], hidden[0], rtol=1e-12, atol=1e-12)


def test_noise_differs_between_sequences_and_between_draws(tokens):
    model = loud(bayesian())
    same = tokens[:1].expand(3, -1)
    first, second = model(same), model(same)
    assert not torch.equal(first, second)
    embedded = model.embedding(torch.full((2, 4), 3))
    assert torch.equal(embedded[:, 0], embedded[:, 3])
    assert not torch.equal(embedded[0], embedded[1])
    states = model.lstm(torch.ones(2, 3, EMBEDDING, dtype=torch.double))[0]
    assert not torch.equal(states[0], states[1])
    set_noise(model, Noise.WEIGHTS)
    with fixed_weight_sample(model):
        held = model(same)
        assert torch.equal(held, model(same))
    torch.testing.assert_close(held[0], held[1], rtol=1e-12, atol=1e-12)


# KL divergence


@pytest.mark.parametrize("kind", ["normal_jeffreys", "horseshoe"])
@pytest.mark.parametrize("groups", [(), ("vocabulary",), ("gates",), ("neurons",), GROUPS], ids=str)
def test_the_kl_is_the_sum_of_its_parts(groups, kind):
    model = loud(bayesian(groups, kind), 0.1)
    lstm = model.lstm
    layers = [model.embedding, lstm.inputs, lstm.recurrent, model.decoder]
    parts = [layer.posterior.kl() for layer in layers]
    found = [one.kl() for one in model.modules() if isinstance(one, scales.Scales)]
    groups_of = {"vocabulary": [WORDS], "gates": [4 * HIDDEN], "neurons": [EMBEDDING, HIDDEN, HIDDEN]}
    sizes = [one.groups for one in model.modules() if isinstance(one, scales.Scales)]
    assert sorted(sizes) == sorted(size for name in groups for size in groups_of[name])
    torch.testing.assert_close(kl(model), sum(parts + found), rtol=1e-12, atol=1e-12)
    if kind == "normal_jeffreys" and "gates" in groups:
        expected = scales.log_uniform_kl(lstm.gates.log_dropout()).sum()
        torch.testing.assert_close(lstm.gates.kl(), expected, rtol=1e-12, atol=1e-12)


def test_moments_of_the_weights_are_those_of_samples():
    model = loud(bayesian(), 0.05)
    set_noise(model, Noise.WEIGHTS)
    lstm, draws = model.lstm, 40_000
    with torch.no_grad():
        gates = lstm.gates.sample([draws, 4 * HIDDEN])
        samples = torch.stack([lstm.inputs.draw(sampled=True)[0] for _ in range(draws)]) * gates[:, :1]
        mean, variance = (moment[0] for moment in lstm.weight_moments()["inputs"])
    # About five standard errors.
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=5 * float(variance.max()) ** 0.5 / 200)
    torch.testing.assert_close(samples.var(0), variance, rtol=0.1, atol=0)


# Smaller networks


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


# Refusals


def test_unusual_networks_are_refused():
    for options in ({"num_layers": 2}, {"bidirectional": True}, {"batch_first": False}, {"bias": False}):
        with pytest.raises(InputError, match="expected one layer, with a bias and batch first"):
            BayesLSTM(nn.LSTM(2, 3, **{"batch_first": True} | options), StandardNormal(1))
    network = plain()
    with pytest.raises(InputError, match=r"groups: 'gate' is not known; .* the nearest is 'gates'"):
        make_recurrent_bayesian(network, StandardNormal(1), groups=["gate"])
    with pytest.raises(InputError, match="use make_recurrent_bayesian first"):
        shrink_recurrent(network)
    with pytest.raises(InputError, match=r"is recurrent; use .*shrink_recurrent"):
        shrink(bayesian(), 0.0)


def test_bayesian_training_learns_a_sequence():
    torch.manual_seed(0)
    pattern = torch.tensor([0, 1, 2, 3, 2, 1]).repeat(60)
    x, y = pattern[:-1][:350].view(-1, 10), pattern[1:][:350].view(-1, 10)
    model = make_recurrent_bayesian(
        RecurrentNetwork(4, 4, 8, 4), LogUniform(1, "molchanov"), groups=["gates", "neurons"]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        nll = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss = nll + kl(model) / 3_000
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(nll.item())
    assert losses[-1] < 0.5 * losses[0]
