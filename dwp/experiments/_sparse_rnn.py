"""Sparse recurrent networks: training, pruning and evaluation of the network of one task.

A task's settings and method are those of `sparse_rnn`, which imports this module when it runs.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.bayes import layers
from dwp.bayes.objectives import Loss
from dwp.bayes.recurrent import make_recurrent_bayesian
from dwp.compression.recurrent import GATES, log_ratios, masked_recurrent, shrink_recurrent
from dwp.data.text import Text
from dwp.data.tokens import PADDING, Vocabulary
from dwp.errors import InputError
from dwp.experiments._pruning import Warmup, thresholds
from dwp.experiments.task import Task
from dwp.nn.noise import Noise
from dwp.nn.precision import at_least_float32
from dwp.nn.recurrent import RecurrentNetwork
from dwp.nn.seeding import seeded
from dwp.priors.log_uniform import LogUniform

CHECKED = 500
"""Training sequences on which thresholds are compared."""
BATCH = 250
"""Sequences of a forward pass in an evaluation."""
WORDS = 2000
"""Words whose embeddings are recorded, the most frequent."""

Sequences = tuple[Tensor, Tensor]
"""Tokens [n, t], and the next tokens [n, t] or labels [n]."""


class Point(NamedTuple):
    """A pruned network, and the threshold of log(variance / mean²) of the weights that it is pruned by."""

    threshold: float
    network: RecurrentNetwork
    compression: float
    train_loss: float
    loss: float


def run(task: Task[Any, Any]) -> list[dict]:
    """Train and prune one network; return rows.

    Those of `sparse_rnn.run` by step. After the last, for the pruned network: loss and error on the test
    sequences, with unpruned_loss; compression, the number of weights before relative to those that are not
    zero; words, inputs and units that stay, and gates that are not constant by kind (`part`). For sparse
    methods also threshold; curve_loss and curve_compression of each threshold (`part`); gate_weights, the
    number of weights of each gate that are not zero (`part`: kind and unit); and word_norm of each word
    (`part`: place by frequency, and word).
    """
    settings, method, device = task.settings, task.method, task.device
    text = cast(Text, task.dataset)
    if settings.predict == "label" and not text.classes:
        raise InputError(f"sparse_rnn: {text.name} has no labels; use predict: next, or another data set")
    vocabulary = Vocabulary.of(text.train, settings.level, settings.vocabulary)
    train, test = (sequences(text, split, vocabulary, settings) for split in ("train", "test"))
    asked = int(task.setting)
    if asked > len(train[0]):
        raise InputError(
            f"sparse_rnn: examples: {asked} is more than the {len(train[0])} training sequences of "
            f"{text.name}"
        )
    # A part of the text for all seeds, but labels are in blocks.
    chosen = torch.arange(asked)
    if settings.predict == "label":
        chosen = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(0))[:asked]
    train = train[0][chosen].to(device), train[1][chosen].to(device)
    test = test[0][: settings.test_examples].to(device), test[1][: settings.test_examples].to(device)
    with seeded(task.seed):
        outputs = text.classes if settings.predict == "label" else len(vocabulary)
        size = settings.network
        model = RecurrentNetwork(
            len(vocabulary), size.embedding, size.hidden, outputs, every_step=settings.predict == "next"
        ).to(device)
    total = sum(weight.numel() for weight in _weights(model))
    trained, loss = _prepared(task, model, train)

    def evaluate() -> dict[str, float]:
        with layers.predicting(model, Noise.NONE):
            return {"nll": _loss(model, test)}

    rows = task.fit(trained, loss, train, evaluate)
    last = rows[-1]["step"]

    def record(metric: str, value: float, part: str = "") -> None:
        rows.append({"step": last, "metric": metric, "value": float(value), "part": part})

    record("weights", total)
    if method.sparse:
        small = _prune(task, model, total, (train[0][:CHECKED], train[1][:CHECKED]), test, vocabulary, record)
    else:
        small = model
        record("compression", 1)
        loss_of_dense = _loss(model, test)
        record("loss", loss_of_dense)
        record("unpruned_loss", loss_of_dense)
        for metric, value in (("words", len(vocabulary)), ("inputs", size.embedding), ("units", size.hidden)):
            record(metric, value)
        for kind in GATES:
            record("gates", size.hidden, kind)
    record("error", _error(small, test))
    return rows


def sequences(text: Text, split: str, vocabulary: Vocabulary, settings: Any) -> Sequences:
    """Return the sequences of a split: parts of the joined documents, or their first tokens.

    Raises:
        InputError: the text is shorter than a sequence.
    """
    documents: Iterable[str] = getattr(text, split)
    length = settings.length
    if settings.predict == "label":
        short = [vocabulary.numbers(document)[:length] for document in documents]
        filler = vocabulary.words.index(PADDING)
        # Filled at the front, so that the last token is one of the document.
        rows = [[filler] * (length - len(one)) + one for one in short]
        return torch.tensor(rows), torch.tensor(getattr(text, f"{split}_labels"))
    numbers = list(itertools.chain.from_iterable(vocabulary.numbers(f"{one}\n") for one in documents))
    count = (len(numbers) - 1) // length
    if not count:
        raise InputError(
            f"sparse_rnn: length: {length} is more than the {len(numbers) - 1} tokens of {split} of "
            f"{text.name}"
        )
    whole = torch.tensor(numbers[: count * length + 1])
    return whole[:-1].view(count, length), whole[1:].view(count, length)


def _prepared(task: Task[Any, Any], model: RecurrentNetwork, train: Sequences) -> tuple[nn.Module, Loss]:
    """Make the network Bayesian if the method says so; return all that is trained, and the loss."""
    settings, method = task.settings, task.method
    predictions = train[1].numel()
    if not method.sparse:
        return model, lambda tokens, targets: (value := _nll(model, tokens, targets), {"train_nll": value})
    make_recurrent_bayesian(model, LogUniform(1, "molchanov"), groups=method.groups)
    steps = round(settings.warmup * settings.schedule.total_steps(len(train[0])))
    warmup = Warmup(steps, method.kl_weight).to(task.device)

    def loss(tokens: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        warmup.advance()
        nll, kl = _nll(model, tokens, targets), layers.kl(model)
        return nll + warmup.weight * kl / predictions, {"train_nll": nll, "kl": kl}

    return nn.ModuleList([model, warmup]), loss


def _prune(
    task: Task[Any, Any],
    model: RecurrentNetwork,
    total: int,
    checked: Sequences,
    test: Sequences,
    vocabulary: Vocabulary,
    record: Callable[..., None],
) -> RecurrentNetwork:
    """Choose a threshold on training sequences, and return the network pruned by it; record its metrics.

    `total` is the number of weights before pruning.
    """
    points = [_point(model, value, total, checked, test) for value in thresholds(log_ratios(model))]
    for index, point in enumerate(points):
        record("curve_loss", point.loss, f"{index:02d}")
        record("curve_compression", point.compression, f"{index:02d}")
    # The first threshold prunes nothing.
    most = points[0].train_loss + task.settings.tolerance
    chosen = max((one for one in points if one.train_loss <= most), key=lambda one: one.compression)
    record("unpruned_loss", points[0].loss)
    record("threshold", chosen.threshold)
    record("loss", chosen.loss)
    record("compression", chosen.compression)
    masked = masked_recurrent(model, chosen.threshold)
    of_inputs, of_units = (masked.lstm.get_parameter(f"weight_{kind}_l0") for kind in ("ih", "hh"))
    counts = (of_inputs.count_nonzero(1) + of_units.count_nonzero(1)).view(4, -1)
    small: Any = chosen.network
    record("units", small.decoder.in_features)
    record("inputs", small.lstm.weight_ih.shape[1])
    record("words", len(small.embedding.weight))
    live = small.lstm.live // small.decoder.in_features
    for kind, name in enumerate(GATES):
        record("gates", (live == kind).sum(), name)
        for unit, count in enumerate(counts[kind].tolist()):
            record("gate_weights", count, f"{name} {unit:03d}")
    norms = masked.get_parameter("embedding.weight").norm(dim=1).tolist()
    for place, (word, norm) in enumerate(zip(vocabulary.words[:WORDS], norms, strict=False)):
        record("word_norm", norm, f"{place:04d} {word!r}")
    return small


def _point(
    model: RecurrentNetwork, threshold: float, total: int, checked: Sequences, test: Sequences
) -> Point:
    network = shrink_recurrent(model, threshold)
    stay = sum(int(weight.count_nonzero()) for weight in _weights(network))
    return Point(threshold, network, total / max(stay, 1), _loss(network, checked), _loss(network, test))


def _weights(network: RecurrentNetwork) -> list[Tensor]:
    """Return the weights of an ordinary network, without biases."""
    return [weight for weight in network.parameters() if weight.ndim == 2]


def _nll(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the predictions, in nats."""
    logits = at_least_float32(model(tokens))
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


@torch.no_grad()
def _loss(model: nn.Module, data: Sequences) -> float:
    """Return the mean cross-entropy on sequences, in nats per prediction."""
    parts = zip(*(one.split(BATCH) for one in data), strict=True)
    return float(sum(_nll(model, *part).double() * len(part[0]) for part in parts)) / len(data[0])


@torch.no_grad()
def _error(model: nn.Module, data: Sequences) -> float:
    """Return the share of wrong predictions on sequences, in percent."""
    parts = zip(*(one.split(BATCH) for one in data), strict=True)
    wrong = sum(int((model(tokens).argmax(-1) != targets).sum()) for tokens, targets in parts)
    return 100 * wrong / data[1].numel()
