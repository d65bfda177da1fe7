"""Sparse recurrent networks: LSTMs on text, made smaller by sparse priors.

Methods are dense networks, and Bayesian ones with a sparse prior over single weights, and perhaps over scales
of words, gates and neurons. The axis is the number of training sequences.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dwp.experiments import _pruning_settings, base
from dwp.experiments.base import METHODS, Experiment, Figure, FromZero, Metric
from dwp.nn.spec import Recurrent
from dwp.settings import setting

if TYPE_CHECKING:
    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Method(_pruning_settings.Method):
    """Settings of a method of sparsification."""

    sparse: bool = setting(
        "whether the network is Bayesian, with a log-uniform prior over each weight (sparse variational "
        "dropout), and pruned; false: a dense network",
        True,
    )
    groups: tuple[Literal["vocabulary", "gates", "neurons"], ...] = setting(
        "groups of weights with scales of their own, under a normal-Jeffreys prior: the embedding of a word, "
        "a gate of a unit, an input or unit of the LSTM",
        (),
        unique=True,
    )


@dataclass(frozen=True, kw_only=True)
class Settings(_pruning_settings.Settings):
    """Settings of the sparsification of recurrent networks."""

    network: Recurrent = setting("network to train")  # type: ignore[assignment]  # it has no convolutions
    predict: Literal["next", "label"] = setting(
        "what to predict: the next token, at each step; or the label of a document, after its last token"
    )
    level: Literal["characters", "words", "tokens"] = setting(
        "what a token is; words: also punctuation; tokens: what is between spaces, for text that is already "
        "split, such as Penn Treebank"
    )
    vocabulary: int | None = setting(
        "number of the most frequent tokens that are told apart; null: all", None, ge=1
    )
    length: int = setting(
        "tokens of a sequence; each starts from zero states, and documents with a label are cut", ge=1
    )
    test_examples: int | None = setting("test sequences to evaluate on; null: all", None, ge=1)
    tolerance: FromZero = setting(
        "loss on training sequences that pruning may cost; the threshold that removes the most weights "
        "within it is chosen",
        unit="nats per prediction",
    )
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Train one network and prune it; return losses and sizes of the result.

    By step, of the network of posterior means: nll on test sequences, train_nll and kl. After the last:
    metrics of the pruned network, see `_sparse_rnn.run`.
    """
    from dwp.experiments import _sparse_rnn

    return _sparse_rnn.run(task)


EXPERIMENT = Experiment(
    title="Sparse recurrent networks",
    axis="examples",
    axis_label="training sequences",
    settings=Settings,
    method=Method,
    reads="text",
    metrics=(
        Metric("loss", "test loss after pruning", "nats", better="lower"),
        Metric("compression", "compression by pruning", "×", better="higher"),
        Metric("error", "test error after pruning", "%", better="lower"),
        Metric("unpruned_loss", "test loss before pruning", "nats", better="lower"),
        Metric("words", "words that stay"),
        Metric("inputs", "inputs of the LSTM that stay"),
        Metric("units", "units that stay"),
        Metric("gates", "{part} gates that are not constant"),
        Metric("weights", "weights before pruning"),
        Metric("threshold", "threshold of log(variance / mean²)"),
        base.NLL,
        base.TRAIN_NLL,
        Metric("kl", "KL(q‖p)", "nats", role="training"),
        Metric("curve_loss", "test loss at a threshold", "nats", averaged=False),
        Metric("curve_compression", "compression at a threshold", "×", averaged=False),
        Metric("gate_weights", "weights of a gate of a unit", averaged=False),
        Metric("word_norm", "norm of the embedding of a word", averaged=False),
    ),
    figures=(
        Figure(
            caption="sparse_rnn",
            draw="by_setting",
            options={"metrics": ("loss", "compression")},
        ),
        Figure(
            suffix="curve",
            label="loss by compression",
            caption="sparse_rnn_curve",
            draw="by_compression",
            options={"metric": "loss"},
        ),
        Figure(suffix="gates", label="gates", caption="sparse_rnn_gates", draw="gates_that_stay"),
        Figure(suffix="words", label="words", caption="sparse_rnn_words", draw="words_that_stay"),
    ),
    run=run,
)
