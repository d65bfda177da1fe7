"""Bayesian recurrent networks: posteriors over single weights, and scales of words, gates and neurons.

The weights of the recurrent layer and of the embedding are drawn once for a minibatch of sequences, and their
scales once for each sequence. Both are the same at every time step, so that all steps use one network
(Chirkova, Lobacheva and Vetrov 2018; Lobacheva et al. 2019).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes import posteriors, scales
from dwp.bayes.bayesian_layer import BayesianLayer, BayesLinear
from dwp.errors import InputError, unknown
from dwp.nn.noise import Noise, Stochastic
from dwp.nn.recurrent import PARAMETERS, RecurrentNetwork, initial_state, lstm_step
from dwp.priors.base import Prior

GROUPS = ("vocabulary", "gates", "neurons")
"""Groups of weights that can have scales, see `make_recurrent_bayesian`."""


class BayesEmbedding(BayesianLayer):
    """A Bayesian embedding, see `BayesianLayer`; a scale is of one word."""

    group_axis = 0
    bias: None

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [n, t] to embeddings [n, t, e]; noise is the same at every step of a sequence."""
        if self.noise is not Noise.OUTPUTS or self.scales is None:
            return functional.embedding(tokens, self.weight)
        rows = functional.embedding(tokens, self.posterior.weight(sampled=True))
        z = self.scales.sample([len(tokens), self.scales.groups])
        return rows * z.gather(1, tokens)[..., None].to(rows.dtype)


class BayesLSTM(Stochastic):
    """A Bayesian LSTM of one layer, with noise that is the same at every time step.

    A scale of a gate multiplies its preactivation without the bias; if it is zero, the gate is constant. The
    information flow counts as a gate.

    Args:
        lstm: the layer to replace; the posteriors start from its weights.
        prior: prior over 1×1 kernels, of every weight; not copied.
        form: name of the posteriors' form, see `dwp.bayes.posteriors`.
        inputs: kind of the scales of the inputs, see `dwp.bayes.scales`.
        units: kind of the scales of the hidden units, as inputs of the gates.
        gates: kind of the scales of the gates of each unit.

    Attributes:
        inputs, recurrent: Bayesian layers of the weights [4h, i] and [4h, h].
        gates: scales of the gates, 4h in the order of `nn.LSTM`, or None.
        bias: [4h].

    Raises:
        InputError: it has several layers or directions, a projection, no bias, or is not batch-first.
    """

    def __init__(
        self,
        lstm: nn.LSTM,
        prior: Prior,
        form: str = "additive",
        *,
        inputs: scales.Choice = None,
        units: scales.Choice = None,
        gates: scales.Choice = None,
    ) -> None:
        super().__init__()
        unusual = lstm.num_layers != 1 or lstm.bidirectional or lstm.proj_size
        if unusual or not lstm.bias or not lstm.batch_first:
            raise InputError(f"lstm: {lstm} is not allowed; expected one layer, with a bias and batch first")
        of_inputs, of_units, bias, other = (lstm.get_parameter(f"{name}_l0").detach() for name in PARAMETERS)
        self.inputs = BayesLinear(_linear(of_inputs), prior, form, inputs)
        self.recurrent = BayesLinear(_linear(of_units), prior, form, units)
        self.gates = scales.build(gates, 4 * lstm.hidden_size, of_units)
        self.bias = nn.Parameter(bias + other)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map x [n, t, i] to states [n, t, h], and to the last state and cell, [1, n, h] each."""
        of_inputs, z_inputs = self._drawn(self.inputs, len(x))
        of_units, z_units = self._drawn(self.recurrent, len(x))
        z_gates = self._gate_scales(len(x))
        hidden, cell = initial_state(x, len(self.bias) // 4, state)
        if z_inputs is not None:
            x = x * z_inputs[:, None].to(x.dtype)
        states = []
        for given in functional.linear(x, of_inputs).unbind(1):
            own = given + functional.linear(hidden if z_units is None else hidden * z_units, of_units)
            own = own if z_gates is None else own * z_gates
            hidden, cell = lstm_step(own + self.bias, cell)
            states.append(hidden)
        return torch.stack(states, 1), (hidden[None], cell[None])

    def _drawn(self, layer: BayesLinear, sequences: int) -> tuple[Tensor, Tensor | None]:
        """Return a weight [4h, i] and, if the scales are not part of it, those of each sequence, [n, i]."""
        if self.noise is not Noise.OUTPUTS or layer.scales is None:
            return layer.weight, None
        z = layer.scales.sample([sequences, layer.scales.groups])
        return layer.posterior.weight(sampled=True), z

    def _gate_scales(self, sequences: int) -> Tensor | None:
        """Return the scales of the gates, [n, 4h] or [4h]; None if there are none."""
        gates = self.gates
        if gates is None:
            return None
        if self.noise is Noise.OUTPUTS:
            return gates.sample([sequences, gates.groups])
        if self.noise is Noise.WEIGHTS:
            return self.sample_once(lambda: gates.sample([gates.groups]))
        return gates.moments()[0]

    def weight_moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and variance of each weight of `inputs` and `recurrent`, all scales included."""
        moments = {name: getattr(self, name).weight_moments() for name in ("inputs", "recurrent")}
        if self.gates is None:
            return moments
        z, spread = (moment[:, None] for moment in self.gates.moments())
        return {
            name: (z * mean, spread * (variance + mean.square()) + z.square() * variance)
            for name, (mean, variance) in moments.items()
        }


def make_recurrent_bayesian(
    network: RecurrentNetwork,
    prior: Prior,
    *,
    groups: Collection[str] = (),
    kind: scales.Choice = "normal_jeffreys",
    form: str = "additive",
) -> RecurrentNetwork:
    """Replace the layers of a recurrent network, in place, by Bayesian ones.

    Args:
        network: the network.
        prior: prior over 1×1 kernels, of every weight: `LogUniform(1, "molchanov")` for sparse variational
            dropout. The network keeps a frozen copy.
        groups: groups of weights with scales: 'vocabulary' (the embedding of a word), 'gates' (a gate of a
            unit), 'neurons' (an input or unit of the LSTM, as input of all gates, and an input of the last
            layer).
        kind: kind of the scales, see `dwp.bayes.scales`.
        form: name of the posteriors' form, see `dwp.bayes.posteriors`.

    Returns:
        The network.

    Raises:
        InputError: a group is unknown, or see `posteriors.build`.
    """
    for name in groups:
        if name not in GROUPS:
            raise unknown("groups", name, GROUPS)
    own = posteriors.own(prior, network.decoder.weight)
    vocabulary, gates, neurons = (kind if name in groups else None for name in GROUPS)
    # All are made before any is replaced, so that an error leaves the network unchanged.
    embedding = BayesEmbedding(network.embedding, own, form, vocabulary)
    lstm = BayesLSTM(network.lstm, own, form, inputs=neurons, units=neurons, gates=gates)
    decoder = BayesLinear(network.decoder, own, form, neurons)
    for name, layer in (("embedding", embedding), ("lstm", lstm), ("decoder", decoder)):
        network.set_submodule(name, layer)
    return network


def _linear(weight: Tensor) -> nn.Linear:
    """Return a linear layer with a copy of a weight [o, i], without a bias."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone())
    return layer
