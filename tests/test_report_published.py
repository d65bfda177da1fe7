"""The published numbers of the paper."""

import pytest

from dwp.report import published


@pytest.mark.parametrize(
    ("experiment", "data", "method", "setting", "step", "value", "from_plot"),
    [
        ("few_shot", ("notmnist", "mnist"), "dwp", 50, None, 0.800, False),
        ("few_shot", ("notmnist", "mnist"), "standard_normal", 1000, None, 0.959, False),
        ("few_shot", ("notmnist", "mnist"), "l2_dwp", 200, None, 0.879, False),
        ("few_shot", ("cifar100", "cifar10"), "log_uniform", 200, None, 0.288, True),
        ("random_features", ("notmnist", "mnist"), "xavier", 1 / 16, None, 0.931, True),
        ("random_features", ("cifar100", "cifar10"), "dwp", 1 / 8, None, 0.637, True),
        ("convergence", ("notmnist", "mnist"), "filters", 1, 300, 0.985, True),
        ("convergence", ("cifar100", "cifar10"), "xavier", 1, 100, 0.35, True),
        ("image_vae", ("notmnist", "mnist"), "xavier", 1, 200, -160, True),
    ],
)
def test_published_numbers(experiment, data, method, setting, step, value, from_plot):
    table = published.published(experiment, *data)
    chosen = table[(table["method"] == method) & (table["setting"] == setting)]
    chosen = chosen[chosen["step"].isna() if step is None else chosen["step"] == step]
    assert chosen["value"].tolist() == [value]
    assert chosen["from_plot"].tolist() == [from_plot]


def test_nothing_is_published_on_other_data():
    assert published.published("few_shot", "glyphs", "digits").empty
    assert published.published("few_shot", "my-notmnist", "my-mnist").empty
    assert published.published("unheard_of", "notmnist", "mnist").empty
    assert tuple(published.published("few_shot", "glyphs", "digits").columns) == published.COLUMNS
