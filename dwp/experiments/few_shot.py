"""Few-shot classification: networks trained on n examples of the target set (paper, section 5.1).

Methods are Bayesian networks (posterior and prior), or deterministic ones with an L2 penalty, MC
dropout, deep ensembles, a last-layer Laplace approximation or frozen kernels; see `Method`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dwp.bayes.settings import POSTERIORS
from dwp.experiments import base
from dwp.experiments._augmentation import Augmentation
from dwp.experiments.base import (
    METHODS,
    Count,
    Experiment,
    Figure,
    Metric,
    Names,
    Space,
    Table,
    TrainingSettings,
)
from dwp.settings import setting

if TYPE_CHECKING:
    from dwp.experiments.task import Task


@dataclass(frozen=True, kw_only=True)
class Method(base.KernelMethod):
    """Settings of a method of few-shot classification."""

    posterior: Literal[(*POSTERIORS, "none")] = setting(  # type: ignore[valid-type]  # names from one place
        "posterior over kernels; hmc: samples of the posterior over all weights, by Hamiltonian Monte Carlo "
        "with `steps` gradient evaluations; none: a deterministic network",
        "none",
    )
    prior: Names | None = setting(
        "prior over kernels, of a Bayesian method: the name of one, or names by kernel size or layer, "
        "such as {7x7: vae, conv2: standard_normal}; or pretrained: a Gaussian around the weights of the "
        "source network that the method starts from",
        None,
    )
    prior_scale: float | None = setting(
        "standard deviation of each weight under prior pretrained, which needs one; with other priors null",
        None,
        gt=0,
    )
    l2: float = setting("weight of the squared norm of all convolution kernels in the loss", 0.0, ge=0)
    dropout: float | None = setting(
        "dropout rate after each activation, also at prediction (Monte Carlo dropout); "
        "null: the rate of the network",
        None,
        ge=0,
        lt=1,
    )
    members: int = setting("number of networks in a deep ensemble, or of chains of hmc", 1, ge=1)
    laplace: bool = setting("whether to fit a Laplace approximation to the last layer after training", False)
    kl_weight: float = setting(
        "weight of the KL divergence, of a Bayesian method; 1: the ELBO, below 1: a tempered posterior",
        1.0,
        ge=0,
    )
    objective: Literal["elbo", "acceptance"] = setting(
        "objective of a Gaussian posterior; acceptance: a lower bound of the acceptance rate of its samples "
        "as proposals of the Metropolis-Hastings algorithm, under a prior with an exact density",
        "elbo",
    )
    log_variance: float | None = setting(
        "initial log variance of each weight under posterior additive; null: -10", None
    )
    scales: Literal["normal_jeffreys", "horseshoe"] | None = setting(
        "prior over multiplicative scales of the output channels of convolutions, of a Bayesian method, in "
        "addition to the prior over kernels; null: no scales",
        None,
    )
    classifier: Literal["random", "fitted"] = setting(
        "start of the classifier: random weights, without a prior; or fitted to the features of the initial "
        "network under a Gaussian prior, which remains in the loss and whose scale is chosen by "
        "cross-validation on the training examples; with hmc, it is fitted again for every sample of kernels",
        "random",
    )
    frozen: bool = setting(
        "whether to keep the initial kernels and fit only the classifier; needs classifier: fitted",
        False,
    )
    width: float = setting("factor on the number of channels", 1.0, gt=0)
    augment: Augmentation | None = setting(
        "copies of the training images, moved, turned and distorted at random; together they count as one "
        "example each. null: none",
        None,
    )
    override: dict[str, Any] | None = setting(
        "settings of the schedule or the experiment that are different for this method, such as {lr: 0.01}",
        None,
    )
    space: Space | None = setting("values to try in tuning, in addition to those for every method", None)


@dataclass(frozen=True, kw_only=True)
class Tuning(base.Tuning):
    """Choice of each method's settings on few-shot tasks made from the source data."""

    examples: tuple[Count, ...] = setting(
        "numbers of training examples of these tasks", min_length=1, unique=True
    )


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """Settings of few-shot classification."""

    examples: tuple[Count, ...] = setting("numbers of training examples", min_length=1, unique=True)
    ensemble: int = setting("samples of the posterior in one prediction", ge=1)
    kernel_subset: int | None = setting(
        "kernels per layer, drawn at random, in one estimate of the KL divergence; null: all", ge=1
    )
    posterior_samples: int = setting("samples of each of those kernels in one estimate", ge=1)
    importance_samples: int = setting(
        "number K of importance samples in a VAE's bound on log p(w); tighter with K, at K times the cost",
        ge=1,
    )
    train_reverse_model: bool = setting("whether to train a VAE's encoder r(z|w) together with the posterior")
    outliers: bool = setting(
        "whether to measure the AUROC of uncertainty for telling source test images from target test images"
    )
    tuning: Tuning | None = setting("choice of each method's settings; null: as configured", None)
    methods: dict[str, Method] = setting(METHODS, min_length=1, counts=True)


def run(task: "Task[Settings, Method]") -> list[dict]:
    """Train one network or a deep ensemble; return predictive metrics on the test set, by step.

    By step: accuracy, nll, brier, ece of the ensemble of `ensemble` samples of the
    posterior; mean_accuracy of the posterior mean; train_nll (mean, nats), kl (sum, nats) and, with that
    objective, acceptance. For hmc a step is a gradient evaluation, with metrics of the samples so far and
    the acceptance of proposals instead of mean_accuracy, train_nll and kl.
    After the last: with `outliers`, auroc_entropy and auroc_mutual_information for telling test
    images of the source data set from those of the target; bin_confidence, bin_accuracy and
    bin_fraction of each bin (`part`) of `metrics.reliability`; train_flops, and predict_flops of
    one test image. With scales, channels of each convolution (`part`) with a log dropout rate of at
    most 3, the mean over members.
    """
    from dwp.experiments import _few_shot

    return _few_shot.run(task)


EXPERIMENT = Experiment(
    title="Few-shot classification",
    axis="examples",
    axis_label="training examples",
    settings=Settings,
    method=Method,
    metrics=(
        base.ACCURACY,
        base.NLL,
        Metric("ece", "calibration error (ECE)", better="lower"),
        Metric("brier", "Brier score", better="lower"),
        Metric("mean_accuracy", "test accuracy of the posterior mean", better="higher"),
        base.TRAIN_NLL,
        Metric("kl", "KL(q‖p)", "nats", role="training"),
        Metric("channels", "channels of {part} that are not pruned"),
        Metric("acceptance", "acceptance probability"),
        Metric("auroc_entropy", "AUROC of the predictive entropy", better="higher"),
        Metric("auroc_mutual_information", "AUROC of the mutual information", better="higher"),
        Metric("bin_confidence", "confidence in a bin", averaged=False),
        Metric("bin_accuracy", "accuracy in a bin", averaged=False),
        Metric("bin_fraction", "share of the images in a bin", averaged=False),
        Metric("train_flops", "training", "FLOPs", better="lower", role="cost"),
        Metric("predict_flops", "prediction of one image", "FLOPs", better="lower", role="cost"),
    ),
    figures=(
        Figure(
            caption="few_shot",
            draw="by_setting",
            options={"metrics": ("accuracy", "nll", "ece")},
        ),
        Figure(
            suffix="curves",
            label="by step",
            caption="few_shot_curves",
            draw="by_step",
            # The prior matters most with few examples.
            options={"metrics": ("accuracy", "kl"), "first_setting": True},
        ),
        Figure(suffix="reliability", label="reliability", caption="reliability", draw="reliability"),
        Figure(
            suffix="outliers",
            label="outliers",
            caption="outliers",
            draw="by_setting",
            options={
                "metrics": ("auroc_entropy", "auroc_mutual_information"),
                "about": "outliers",
                "chance": 0.5,
            },
            requires="outliers",
        ),
        Figure(suffix="cost", label="accuracy by cost", caption="cost", draw="cost"),
    ),
    tables=(
        Table(suffix="reliability", label="reliability", caption="reliability_table", make="reliability"),
    ),
    run=run,
)
