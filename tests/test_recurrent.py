"""Bayesian recurrent networks: their noise and their KL divergence."""

import pytest
import torch
from recurrent_samples import EMBEDDING, HIDDEN, WORDS, bayesian, loud, plain, sequences
from torch import nn

from dwp import InputError, Noise, kl, set_noise, shrink
from dwp.bayes import scales
from dwp.bayes.recurrent import GROUPS, BayesLSTM, make_recurrent_bayesian
from dwp.compression.recurrent import shrink_recurrent
from dwp.nn.noise import fixed_weight_sample
from dwp.nn.recurrent import RecurrentNetwork, lstm_step
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal


@pytest.fixture
def tokens():
    return sequences()


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
