"""A recurrent network over tokens, and one step of its LSTM."""

import torch
from torch import Tensor, nn

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Names of the parameters of a layer of `nn.LSTM`, without its number."""


class RecurrentNetwork(nn.Module):
    """An embedding, an LSTM and a linear layer: logits of the next token, or of the class of a sequence.

    Args:
        words: number of tokens of the vocabulary.
        embedding: size of the embedding.
        hidden: units of the LSTM.
        outputs: number of logits.
        every_step: whether there are logits at each step; otherwise, only after the last one.
    """

    def __init__(
        self, words: int, embedding: int, hidden: int, outputs: int, *, every_step: bool = True
    ) -> None:
        super().__init__()
        self.every_step = every_step
        self.embedding = nn.Embedding(words, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.decoder = nn.Linear(hidden, outputs)
        with torch.no_grad():
            self.embedding.weight.mul_(0.1)
            # The units remember at first.
            self.lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = 1
            self.lstm.get_parameter("bias_hh_l0").zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [n, t] to logits [n, t, outputs], or [n, outputs] after the last step."""
        states, _ = self.lstm(self.embedding(tokens))
        return self.decoder(states if self.every_step else states[:, -1])


def lstm_step(preactivations: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden state and cell [n, h] after one step.

    Args:
        preactivations: [n, 4h], of the input gate, the forget gate, the information flow and the output gate.
        cell: [n, h].
    """
    write, keep, flow, read = preactivations.chunk(4, -1)
    cell = keep.sigmoid() * cell + write.sigmoid() * flow.tanh()
    return read.sigmoid() * cell.tanh(), cell


def initial_state(
    x: Tensor, hidden: int, state: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return hidden state and cell [n, h]: those given, [1, n, h] each as for `nn.LSTM`, or zero."""
    if state is not None:
        return state[0][0], state[1][0]
    zero = x.new_zeros(len(x), hidden)
    return zero, zero


class CompactLSTM(nn.Module):
    """An LSTM in which some gates of some units are constant: they depend on their bias only.

    Args:
        inputs: weights from the inputs of the gates that are not constant, [r, i].
        recurrent: their weights from the units, [r, h].
        bias: of all gates, [4h], in the order of `nn.LSTM`.
        live: places of the gates that are not constant among all gates, [r].
    """

    live: Tensor

    def __init__(self, inputs: Tensor, recurrent: Tensor, bias: Tensor, live: Tensor) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(inputs)
        self.weight_hh = nn.Parameter(recurrent)
        self.bias = nn.Parameter(bias)
        self.register_buffer("live", live)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map x [n, t, i] to states [n, t, h], and to the last state and cell, [1, n, h] each."""
        hidden, cell = initial_state(x, len(self.bias) // 4, state)
        constant = self.bias.expand(len(x), -1)
        states = []
        for given in nn.functional.linear(x, self.weight_ih).unbind(1):
            own = given + nn.functional.linear(hidden, self.weight_hh)
            hidden, cell = lstm_step(constant.index_add(1, self.live, own.to(constant.dtype)), cell)
            states.append(hidden)
        return torch.stack(states, 1), (hidden[None], cell[None])


class EmbeddingOfSome(nn.Module):
    """An embedding of some words; the others are zero.

    Args:
        weight: embeddings of the words that stay, [k, e].
        rows: row of each word of the vocabulary in `weight`, [v]; -1 for words that are left out.
    """

    rows: Tensor

    def __init__(self, weight: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("rows", rows)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [...] to embeddings [..., e]."""
        rows = self.rows[tokens]
        return nn.functional.embedding(rows.clamp_min(0), self.weight) * (rows >= 0)[..., None]
