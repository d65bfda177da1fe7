"""Compression: smaller networks by sparse priors over weights and over groups of weights.

Methods are Bayesian networks with scales of inputs and channels, or with a sparse prior over single weights,
and dense networks. The axis is the number of training examples.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dwp.experiments import _pruning_settings, base
from dwp.experiments.base import (
    METHODS,
    Experiment,
    Figure,
    FromZero,
    Metric,
    Names,
    Table,
)
from dwp.settings import setting

if TYPE_CHECKING:
    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Method(_pruning_settings.Method, base.KernelMethod):
    """Settings of a method of compression."""

    pretrained: ClassVar[bool] = False  # source networks have been trained on other classes

    posterior: Literal["additive", "none"] = setting(
        "posterior over weights; none: a dense network, which is not pruned", "none"
    )
    prior: Names | None = setting(
        "prior over kernels, of a Bayesian method: the name of one, or names by kernel size or layer", None
    )
    linear: Literal["standard_normal", "log_uniform", "ard", "hierarchical_ard"] = setting(
        "prior over the single weights of linear layers and the classifier, of a Bayesian method; "
        "standard_normal: with variance 1 / inputs, log_uniform: sparse variational dropout",
        "standard_normal",
    )
    scales: Literal["normal_jeffreys", "horseshoe"] | None = setting(
        "prior over multiplicative scales of inputs of linear layers and of output channels of convolutions, "
        "by which they are pruned; null: no scales, single weights are pruned",
        None,
    )
    largest_variance: float | None = setting(
        "upper bound of the posterior variances in the first layer; null: none", None, gt=0
    )


@dataclass(frozen=True, kw_only=True)
class Settings(_pruning_settings.Settings):
    """Settings of the compression of networks."""

    tolerance: FromZero = setting(
        "accuracy on training examples that pruning may cost; the threshold that removes the most weights "
        "within it is chosen"
    )
    measure_time: bool = setting("whether to measure prediction times, which vary from run to run")
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Train one network and prune it; return errors, sizes and times of the result.

    By step, of the network of posterior means: accuracy and nll on test images, train_nll, kl, and
    first_layer, one value for each weight of a first convolution, or for each input of a first linear layer
    (the norm of its weights). After the last: metrics of the pruned network, see `_compression.run`.
    """
    from dwp.experiments import _compression

    return _compression.run(task)


EXPERIMENT = Experiment(
    title="Compression by sparse priors",
    axis="examples",
    axis_label="training examples",
    settings=Settings,
    method=Method,
    metrics=(
        Metric("error", "test error after pruning", "%", better="lower"),
        Metric("compression", "compression by pruning", "×", better="higher"),
        Metric("low_precision_compression", "compression by pruning and low precision", "×", better="higher"),
        Metric("low_precision_error", "test error with low precision", "%", better="lower"),
        Metric("unpruned_error", "test error before pruning", "%", better="lower"),
        Metric("inputs", "inputs of {part}"),
        Metric("outputs", "outputs of {part}"),
        Metric("bits", "bits of a weight of {part}"),
        Metric("weights", "weights before pruning"),
        Metric("threshold", "threshold of the log dropout rate"),
        base.ACCURACY,
        base.NLL,
        base.TRAIN_NLL,
        Metric("kl", "KL(q‖p)", "nats", role="training"),
        Metric("file", "file of the pruned network", "bytes", better="lower", role="cost"),
        Metric("time", "prediction by the pruned network", "ms / 1,000 images", better="lower", role="cost"),
        Metric("dense_time", "prediction by the dense network", "ms / 1,000 images", role="cost"),
        Metric("curve_error", "test error at a threshold", "%", averaged=False),
        Metric("curve_compression", "compression at a threshold", "×", averaged=False),
        Metric("first_layer", "weights of the first layer", averaged=False, role="training"),
    ),
    figures=(
        Figure(
            caption="compression",
            draw="by_setting",
            options={"metrics": ("error", "compression", "low_precision_compression")},
        ),
        Figure(
            suffix="curve",
            label="error by compression",
            caption="compression_curve",
            draw="by_compression",
        ),
        Figure(
            suffix="first_layer",
            label="first layer in training",
            caption="compression_first_layer",
            draw="first_layer",
        ),
    ),
    animations=(
        Figure(
            suffix="first_layer",
            label="first layer in training, animation",
            caption="compression_first_layer",
            draw="first_layer_frames",
        ),
    ),
    tables=(
        Table(
            suffix="published",
            label="beside published results",
            caption="compression_published_table",
            make="compression",
        ),
    ),
    run=run,
)
