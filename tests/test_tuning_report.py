"""The report of the tuning: table, page and figure of the trials and the chosen settings."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from dwp.experiments import base
from dwp.report import aggregation, figures, pages, tables
from dwp.report.figures.plotting import Plot
from dwp.report.results import ExperimentResults


def trials_of(method, *rows, metric="nll"):
    """Return the table of a method's trials from rows of (settings, mean, standard error, chosen)."""
    return pd.DataFrame(
        [
            ("few_shot", method, json.dumps(chosen), "0" * 8, 9, metric, mean, error, 3, best)
            for chosen, mean, error, best in rows
        ],
        columns=list(aggregation.TRIALS),
    )


@pytest.fixture
def results():
    rows = pd.DataFrame(
        [("few_shot", name, 50, 0, 1, "nll", "", 0.5) for name in ("dwp", "l2", "map", "fixed")],
        columns=base.COLUMNS,
    )
    nothing = pd.DataFrame(columns=["metric", "method", "setting", "step", "value", "from_plot", "label"])
    trials = pd.concat(
        [
            trials_of(
                "dwp",
                ({"lr": 0.1}, 0.5, 0.1, False),
                ({"lr": 0.2}, 0.4, 0.1, True),
                ({"lr": 0.3}, math.nan, math.nan, False),
            ),
            trials_of("l2", ({"init": {"from": "he"}, "l2": 0}, 40.0, math.nan, True)),
            trials_of("map", *(({"lr": rate}, rate, 0.01, rate == 0.1) for rate in np.arange(1, 10) / 10)),
        ],
        ignore_index=True,
    )
    return ExperimentResults("few_shot", base.find("few_shot"), rows, nothing, trials)


def test_the_table_has_the_chosen_settings_and_the_runner_up(results):
    table = tables.tuning(results)
    assert table["method"].tolist() == ["dwp", "l2", "map"]
    assert table["trials"].tolist() == [3, 1, 9]
    assert table["settings"].tolist() == ["lr 0.2", 'init {"from": "he"}, l2 0', "lr 0.1"]
    assert table["runner_up"].tolist() == ["lr 0.1", "", "lr 0.2"]
    assert table["runner_up_mean"].tolist() == pytest.approx([0.5, math.nan, 0.2], nan_ok=True)


def test_of_a_metric_that_should_be_high_the_runner_up_is_the_second_highest():
    values = ((0.7, False), (0.9, True), (0.8, False))
    table = trials_of("dwp", *(({"lr": v}, v, 0.1, best) for v, best in values), metric="accuracy")
    assert aggregation.tuned(table, base.find("few_shot"))["runner_up"].tolist() == ["lr 0.8"]


def test_the_page_says_which_settings_each_method_used(results):
    page = pages.experiment(results)
    assert "Tuned settings" in page
    assert "as configured: fixed" in page
    row = '<th>dwp</th><td>3 of 9</td><td class="text">lr 0.2</td><td>0.400 ± 0.100</td>'
    assert f'{row}<td class="text">lr 0.1</td>' in page
    untuned = ExperimentResults("few_shot", results.experiment, results.rows, results.published)
    assert "Tuned settings" not in pages.experiment(untuned)


def test_the_figure_marks_the_chosen_trial_and_counts_the_diverged(results):
    (ax,) = figures.find("tuning")(results, Plot()).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["dwp (1 of 3 not finite)", "l2", "map"]
    filled = [line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 9]
    assert filled == pytest.approx([0.4, 40.0, 0.1])
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "NLL [nats]"
