"""Numbers published in *The Deep Weight Prior* (ICLR 2019), as tidy rows.

They are shown only for the paper's pairs of data sets. Methods have the names of the default
configuration, so that plots can match them.
"""

import pandas as pd

COLUMNS = ("experiment", "method", "label", "setting", "step", "metric", "value", "from_plot")

LABELS = {
    "dwp": "DWP",
    "log_uniform": "log-uniform",
    "standard_normal": "standard normal",
    "l2_dwp": "deterministic, DWP init, L2",
    "filters": "learned filters",
    "xavier": "Xavier",
    "vae": "published VAE, its kernels",
}

_Pair = tuple[str, str]
_Numbers = tuple[float, ...]

_MNIST = ("notmnist", "mnist")
_CIFAR = ("cifar100", "cifar10")
_WIDTHS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)

# (experiment, metric, settings, whether read off a plot, values by method): the last step of training.
_FINAL: dict[_Pair, list[tuple[str, str, _Numbers, bool, dict[str, _Numbers]]]] = {
    _MNIST: [
        (
            "few_shot",
            "accuracy",
            (50, 100, 200, 500, 1000),
            False,
            {
                "dwp": (0.800, 0.867, 0.915, 0.945, 0.961),
                "log_uniform": (0.766, 0.839, 0.894, 0.938, 0.958),
                "standard_normal": (0.717, 0.816, 0.890, 0.938, 0.959),
                "l2_dwp": (0.751, 0.827, 0.879, 0.926, 0.954),
            },
        ),
        (
            "random_features",
            "accuracy",
            _WIDTHS,
            True,
            {
                "filters": (0.963, 0.972, 0.979, 0.985, 0.987),
                "dwp": (0.957, 0.970, 0.977, 0.980, 0.983),
                "xavier": (0.931, 0.956, 0.972, 0.979, 0.983),
            },
        ),
        # Results of the published script for held-out 7×7 kernels, in nats per kernel.
        ("priors", "elbo", (7,), False, {"vae": (48.6,)}),
        ("priors", "log_likelihood", (7,), False, {"vae": (54.9,)}),
        ("priors", "kl", (7,), False, {"vae": (6.2,)}),
    ],
    _CIFAR: [
        (
            "few_shot",
            "accuracy",
            (50, 200, 500),
            True,
            {
                "dwp": (0.237, 0.303, 0.356),
                "log_uniform": (0.219, 0.288, 0.336),
                "standard_normal": (0.225, 0.289, 0.353),
            },
        ),
        (
            "random_features",
            "accuracy",
            _WIDTHS[1:],
            True,
            {
                "filters": (0.653, 0.681, 0.703, 0.711),
                "dwp": (0.637, 0.660, 0.678, 0.690),
                "xavier": (0.622, 0.639, 0.650, 0.656),
            },
        ),
    ],
}

# (experiment, metric, steps, values by method): networks of full width, all read off plots.
_CURVES: dict[_Pair, list[tuple[str, str, _Numbers, dict[str, _Numbers]]]] = {
    _MNIST: [
        (
            "convergence",
            "accuracy",
            (50, 100, 300),
            {
                "filters": (0.966, 0.974, 0.985),
                "dwp": (0.962, 0.974, 0.984),
                "xavier": (0.930, 0.962, 0.983),
            },
        ),
        (
            "image_vae",
            "lower_bound",
            (200, 400, 1000),
            {
                "filters": (-116.0, -102.0, -94.0),
                "dwp": (-115.0, -100.0, -93.0),
                "xavier": (-160.0, -117.0, -95.0),
            },
        ),
    ],
    _CIFAR: [
        (
            "convergence",
            "accuracy",
            (100, 390),
            {"filters": (0.50, 0.61), "dwp": (0.49, 0.61), "xavier": (0.35, 0.50)},
        ),
    ],
}

COMPRESSION = pd.DataFrame(
    [
        (430_500, "LeNet-5-Caffe", "DC", 0.7, 6, None),
        (430_500, "LeNet-5-Caffe", "DNS", 0.9, 55, None),
        (430_500, "LeNet-5-Caffe", "SWS", 1.0, 100, None),
        (430_500, "LeNet-5-Caffe", "Sparse VD", 1.0, 63, 228),
        (430_500, "LeNet-5-Caffe", "BC-GNJ", 1.0, 108, 361),
        (430_500, "LeNet-5-Caffe", "BC-GHS", 1.0, 156, 419),
        (14_977_728, "VGG", "BC-GNJ", 8.6, 14, 56),
        (14_977_728, "VGG", "BC-GHS", 9.0, 18, 59),
    ],
    columns=["weights", "network", "method", "error", "compression", "low_precision_compression"],
)
"""Published results of compression, from the code release of *Bayesian Compression for Deep Learning*.

`error` is in percent, on MNIST (LeNet-5-Caffe) and CIFAR-10 (VGG). `weights` is the number of weights before
pruning, by which the network of a run is recognised.
"""


def published(experiment: str, source: str, target: str) -> pd.DataFrame:
    """Return the paper's numbers for an experiment; no rows for other data sets than the paper's.

    Args:
        experiment: `few_shot`, `random_features`, `convergence`, `image_vae` (convolutions of
            a VAE over images, initialised), or `priors` (`setting` is the kernel size).
        source: name of the data set of the kernels.
        target: name of the data set of the experiments.

    Returns:
        Columns experiment, method, label, setting, step (NaN for the end of training),
        metric, value, and `from_plot`: whether the value was read off a plot.
    """
    pair = (source, target)
    rows = []
    for name, metric, settings, from_plot, methods in _FINAL.get(pair, []):
        for method, values in methods.items():
            for setting, value in zip(settings, values, strict=True):
                rows.append((name, method, LABELS[method], setting, float("nan"), metric, value, from_plot))
    for name, metric, steps, methods in _CURVES.get(pair, []):
        for method, values in methods.items():
            for step, value in zip(steps, values, strict=True):
                rows.append((name, method, LABELS[method], 1.0, step, metric, value, True))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table[table["experiment"] == experiment].reset_index(drop=True)
