"""Means and spreads over seeds, and reliability diagrams."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
from report_samples import results, rows

from dwp import metrics
from dwp.errors import InputError
from dwp.report import aggregation


def test_summarise_takes_each_seeds_last_step_and_the_sample_deviation():
    table = aggregation.summarise(
        rows(
            ("e", "b", 50, 0, 10, "accuracy", 0.1),
            ("e", "b", 50, 0, 20, "accuracy", 0.5),
            ("e", "b", 50, 1, 30, "accuracy", 0.7),
            ("e", "b", 50, 1, 20, "accuracy", 0.9),
            ("e", "b", 50, 2, 20, "accuracy", 0.9),
            ("e", "a", 50, 0, 20, "accuracy", 0.4),
        )
    )
    assert table["method"].tolist() == ["b", "a"]
    assert table["n"].tolist() == [3, 1]
    # 0.5, 0.7, 0.9: squared deviations 0.04, 0, 0.04 over n - 1 = 2.
    assert table["mean"].tolist() == pytest.approx([0.7, 0.4])
    assert table["std"][0] == pytest.approx(math.sqrt(0.08 / 2))
    assert math.isnan(table["std"][1])


def test_summarise_orders_methods_as_first_seen_and_settings_by_size():
    table = aggregation.summarise(
        rows(*(("e", m, s, 0, 1, "nll", 1.0) for m in ("z", "a", "m") for s in (1000, 50)))
    )
    assert list(zip(table["method"], table["setting"], strict=True)) == [
        (m, s) for m in ("z", "a", "m") for s in (50, 1000)
    ]


def test_curves_keep_steps_apart():
    table = aggregation.curves(
        rows(*(("e", "a", 1, seed, step, "nll", seed + step) for seed in (0, 2) for step in (0, 10)))
    )
    assert table["step"].tolist() == [0, 10]
    assert table["mean"].tolist() == [1, 11]
    assert table["std"].tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_paired_differences_have_the_interval_of_a_paired_t_test():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.5, 0.1, 6), generator.normal(0.45, 0.1, 6)
    table = aggregation.paired(
        rows(
            *(("e", "ours", 50, seed, 1, "accuracy", value) for seed, value in enumerate(first)),
            # Its seeds are in another order, and one is missing from the first method.
            *(("e", "theirs", 50, seed, 1, "accuracy", second[seed]) for seed in reversed(range(6))),
            ("e", "theirs", 50, 6, 1, "accuracy", 100.0),
            ("e", "single", 50, 2, 1, "accuracy", first[2] + 0.25),
            ("e", "single", 50, 2, 1, "kl", 7.0),
        ),
        ["accuracy"],
    )
    assert table["method"].tolist() == ["theirs", "single"]
    assert table["n"].tolist() == [6, 1]
    interval = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
    low = table["difference"][0] - table["half_width"][0], table["difference"][0] + table["half_width"][0]
    assert low == pytest.approx(tuple(interval))
    assert table["difference"][1] == pytest.approx(0.25)
    assert math.isnan(table["half_width"][1])


def reliable(method: str, setting: float, seed: int, *bins: tuple) -> list[tuple]:
    """Return rows of a reliability diagram from (bin, confidence, accuracy, fraction)."""
    names = ("confidence", "accuracy", "fraction")
    return [
        ("e", method, setting, seed, 9, f"bin_{name}", str(b), value)
        for b, *values in bins
        for name, value in zip(names, values, strict=True)
    ]


def test_reliability_pools_images_over_seeds():
    table = aggregation.reliability(
        rows(
            *reliable("b", 50, 0, (14, 0.95, 1.0, 0.75), (9, 0.65, 0.5, 0.25)),
            *reliable("b", 50, 1, (14, 0.98, 0.6, 0.25), (11, 0.75, 0.9, 0.75)),
            *reliable("a", 50, 0, (14, 1.0, 0.5, 1.0)),
            ("e", "b", 50, 0, 9, "accuracy", 0.7),
        )
    )
    assert table["method"].tolist() == ["b", "b", "b", "a"]
    assert table["bin"].tolist() == [9, 11, 14, 14]
    # Of bin 14, three images in four are the first seed's.
    assert table["accuracy"].tolist() == pytest.approx([0.5, 0.9, 0.75 * 1.0 + 0.25 * 0.6, 0.5])
    assert table["confidence"].tolist() == pytest.approx([0.65, 0.75, 0.75 * 0.95 + 0.25 * 0.98, 1.0])
    # A seed without images in a bin counts there as none.
    assert table["fraction"].tolist() == pytest.approx([0.125, 0.375, 0.5, 1.0])
    assert table["accuracy_std"][2] == pytest.approx(np.std([1.0, 0.6], ddof=1))
    assert table["accuracy_std"].isna().tolist() == [True, True, False, True]
    assert table["n"].tolist() == [2, 2, 2, 1]


def test_pooled_reliability_is_that_of_all_predictions_together():
    generator = torch.Generator().manual_seed(0)
    seeds = [torch.rand(200, 4, generator=generator).mul(3).softmax(1) for _ in range(3)]
    labels = [torch.randint(4, (200,), generator=generator) for _ in seeds]
    table = aggregation.reliability(
        rows(
            *(
                ("e", "m", 50, seed, 9, f"bin_{name}", str(part.index), getattr(part, name))
                for seed in range(3)
                for part in metrics.reliability(seeds[seed], labels[seed])
                for name in ("confidence", "accuracy", "fraction")
            )
        )
    )
    together = metrics.reliability(torch.cat(seeds), torch.cat(labels))
    bins = [(row.bin, row.confidence, row.accuracy, row.fraction) for row in table.itertuples()]
    assert np.array(bins) == pytest.approx(np.array([dataclasses.astuple(part) for part in together]))


def test_bins_of_a_diagram_are_not_averaged_over_seeds():
    cells = rows(("few_shot", "m", 50, 0, 9, "accuracy", 0.7), *reliable("m", 50, 0, (14, 0.95, 1.0, 1.0)))
    table = results(cells.assign(experiment="few_shot"))
    assert table.summary["metric"].tolist() == ["accuracy"]
    assert table.curves["metric"].tolist() == ["accuracy"]
    with pytest.raises(InputError, match="the rows have no metrics bin_confidence, bin_accuracy, bin_frac"):
        aggregation.reliability(cells[cells["metric"] == "accuracy"])


def test_parts_of_a_metric_are_apart_in_the_order_of_the_rows():
    cells = rows(
        *(
            ("e", "m", 1, seed, 0, "kl", size, seed + len(size))
            for seed in (0, 2)
            for size in ("7x7", "11x11")
        )
    )
    table = aggregation.summarise(cells)
    assert table[["metric", "part", "mean"]].to_numpy().tolist() == [["kl", "7x7", 4.0], ["kl", "11x11", 6.0]]


def test_a_table_without_parts_reads_as_one(tmp_path):
    rows(("e", "m", 1, 0, 0, "nll", 0.5)).to_csv(tmp_path / "cells.csv", index=False)
    assert aggregation.read([tmp_path / "cells.csv"])["part"].tolist() == [""]


def test_read_names_the_file_and_the_missing_column(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("experiment,method\ne,a\n")
    with pytest.raises(InputError, match=r"cells\.csv.*value missing"):
        aggregation.read([path])
    with pytest.raises(InputError, match="cannot be read"):
        aggregation.read([tmp_path / "none.csv"])
