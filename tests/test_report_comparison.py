"""The comparison of priors: its table, its page and its figure."""

import math
from dataclasses import replace

import numpy as np
import pytest
from report_samples import prior_run, run_results, sampled, scored

from dwp.experiments.methods import PriorUse
from dwp.report import catalogue, comparison, figures, pages
from dwp.report.catalogue import Contents
from dwp.report.figures.plotting import Plot

HMC, FROZEN = "prior, hmc", "initialisation, frozen"
DENSITY = "log\N{NO-BREAK SPACE}p(w), 7×7"
DENSITIES = {"flow": 50.0, "gaussian": 47.0, "noise": -20.0, "filters": math.nan}
USES = {
    "hmc_flow": PriorUse("flow", HMC, [7, 5]),
    "hmc_noise": PriorUse("noise", HMC, [7, 5]),
    "frozen_flow": PriorUse("flow", FROZEN, [7, 5]),
    "frozen_filters": PriorUse("filters", FROZEN, [7, 5]),
}


def cells(table: pages.Table) -> dict[str, dict[str, str]]:
    """Return the texts of a table by row and column."""
    return {
        name: dict(zip(table.columns, (cell.text for cell in row), strict=True)) for name, row in table.rows
    }


def test_the_table_joins_densities_samples_and_results():
    run = prior_run(DENSITIES, USES, (50, 100))
    table = comparison.table(run)
    assert table["size"].tolist() == [7] * 9 + [5] * 9
    priors = ["flow"] * 4 + ["gaussian"] + ["noise"] * 2 + ["filters"] * 2
    assert table["prior"].tolist() == priors * 2
    first = table.iloc[:4]
    assert first["method"].tolist() == ["hmc_flow"] * 2 + ["frozen_flow"] * 2
    assert first["use"].tolist() == [HMC] * 2 + [FROZEN] * 2
    assert first["setting"].tolist() == [50, 100] * 2
    assert (first["log_density"] == 50).all()
    assert (first["energy"] == 0.1).all()
    assert (first["held_out_nearest"] == 0).all()
    summary = run.experiments["few_shot"].summary.set_index(["metric", "method", "setting"])
    for row in first.to_dict("records"):
        for metric in ("accuracy", "nll"):
            expected = summary.loc[(metric, row["method"], row["setting"])]
            assert [row[metric], row[f"{metric}_std"], row["n"]] == expected[["mean", "std", "n"]].tolist()
    unused = table[table["prior"] == "gaussian"]
    assert unused[["use", "method", "setting", "accuracy", "n"]].isna().all(axis=None)
    assert table.loc[table["prior"] == "filters", ["log_density", "exact"]].isna().all(axis=None)


def test_a_bound_is_that_with_the_most_samples():
    table = comparison.table(run_results(scores=scored(7), samples=sampled(7)))
    row = table[table["prior"] == "vae"].iloc[0]
    assert (row["log_density"], row["samples"], row["exact"]) == (48.5, 5, False)
    assert "use" not in table
    assert table["prior"].tolist() == ["vae", "gauss", "standard_normal", "filters"]
    assert table["kind"].tolist() == ["vae", "gaussian", "standard_normal", "empirical"]


def test_a_use_counts_for_the_kernel_sizes_of_its_network():
    uses = {"hmc_flow": PriorUse("flow", HMC, [7]), "frozen_gaussian": PriorUse("gaussian", FROZEN, [7, 5])}
    table = comparison.table(prior_run(DENSITIES, uses))
    used = table[table["method"].notna()]
    assert list(zip(used["size"], used["method"], strict=True)) == [
        (7, "hmc_flow"),
        (7, "frozen_gaussian"),
        (5, "frozen_gaussian"),
    ]


def test_a_prior_without_density_and_samples_is_listed_with_its_uses():
    uses = USES | {"log_uniform": PriorUse("log_uniform", "prior, truncated_alpha", [7, 5])}
    kinds = {"log_uniform": "log_uniform", "flow": "flow"}
    table = comparison.table(prior_run(DENSITIES, uses, kinds=kinds))
    assert list(dict.fromkeys(table["prior"])) == ["log_uniform", "flow", "gaussian", "noise", "filters"]
    row = table.iloc[0]
    assert (row["kind"], row["method"]) == ("log_uniform", "log_uniform")
    assert np.isfinite(row["accuracy"])
    assert math.isnan(row["log_density"])


def test_the_page_begins_with_a_row_for_each_prior():
    run = prior_run(DENSITIES, USES, (50, 100))
    table = pages.scores_tables(run)[0]
    assert table.note == "training examples = 50"
    shown = cells(table)
    assert list(shown) == ["flow", "gaussian", "noise", "filters"]
    assert list(shown["flow"]) == [
        *(DENSITY, DENSITY.replace("7", "5"), "energy, 7×7", "energy, 5×5"),
        *(f"{metric} ({use})" for use in (HMC, FROZEN) for metric in ("accuracy", "NLL [nats]")),
    ]
    assert shown["noise"][DENSITY] == "−20.00"
    assert shown["filters"][DENSITY] == "–"
    summary = run.experiments["few_shot"].summary.set_index(["metric", "method", "setting"])
    row = summary.loc[("accuracy", "hmc_noise", 50)]
    assert shown["noise"][f"accuracy ({HMC})"] == f"{row['mean']:.3f} ± {row['std']:.3f}"
    assert shown["noise"][f"accuracy ({FROZEN})"] == "–"
    best = [name for name, row in table.rows if row[0].mark == "best"]
    assert best == ["flow"]


def test_several_methods_with_the_same_use_of_a_prior_have_rows_of_their_own():
    uses = USES | {"frozen_wide": PriorUse("flow", FROZEN, [7, 5])}
    run = prior_run(DENSITIES, uses)
    one = replace(run.experiments["few_shot"], titles={"frozen_wide": "eight times as wide"})
    shown = cells(pages.comparison_tables(replace(run, experiments={"few_shot": one}))[0])
    assert list(shown)[:3] == ["flow", "flow: frozen flow", "flow: eight times as wide"]
    assert shown["flow"][f"accuracy ({FROZEN})"] == "–"
    assert "±" in shown["flow"][f"accuracy ({HMC})"]
    assert [shown["flow: frozen flow"][key] for key in (DENSITY, f"accuracy ({HMC})")] == ["", ""]
    values = one.summary[(one.summary["metric"] == "accuracy")].set_index("method")["mean"]
    for name, method in (("flow: frozen flow", "frozen_flow"), ("flow: eight times as wide", "frozen_wide")):
        assert shown[name][f"accuracy ({FROZEN})"].startswith(f"{values[method]:.3f}")


def test_only_the_scores_are_shown_if_no_method_uses_one_prior_alone():
    run = prior_run(DENSITIES, USES)
    for other in (replace(run, uses={}), replace(run, experiments={})):
        tables = pages.scores_tables(other)
        assert [table.heading for table in tables] == [
            "Held-out kernels under each prior",
            "Samples of each prior, 7×7",
            "Samples of each prior, 5×5",
        ]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"scores": True, "uses": USES}, {"figures", "tables", "pages"}),
        ({"scores": True}, {"tables", "pages"}),
        ({}, set()),
    ],
)
def test_the_comparison_is_listed_where_there_is_something_to_compare(contents, expected):
    listed = [item.name for item in catalogue.items(Contents({"few_shot": ()}, [7], {}, **contents))]
    found = [name for name in listed if name.partition("/")[2] in ("prior_comparison", "scores")]
    assert {
        name.partition("/")[0] for name in found if name not in ("figures/scores", "tables/scores")
    } == expected


def drawn(ax) -> set[tuple[float, float]]:
    """Return the places of the markers of a panel."""
    return {(bar.lines[0].get_xdata()[0], bar.lines[0].get_ydata()[0]) for bar in ax.containers}


def test_markers_are_at_the_density_of_the_prior_and_the_accuracy_of_the_method():
    run = prior_run(DENSITIES, USES, (50, 100))
    figure = figures.find("prior_comparison")(run, Plot())
    summary = run.experiments["few_shot"].summary
    summary = summary[(summary["metric"] == "accuracy") & (summary["setting"] == 50)]
    accuracy = summary.set_index("method")["mean"]
    left, _ = figure.axes
    places = {round(y, 9): x for x, y in drawn(left)}
    at = {method: places[round(accuracy[method], 9)] for method in USES}
    assert at["hmc_flow"] == at["frozen_flow"] == 50
    # The density of noise would compress the axis; filters have none.
    ticks = [tick for tick, label in zip(left.get_xticks(), left.get_xticklabels(), strict=True) if label]
    assert -20 < left.get_xlim()[0] < at["hmc_noise"] < 50 < at["frozen_filters"] < left.get_xlim()[1]
    assert {"far\nbelow", "no\ndensity"} <= {label.get_text() for label in left.get_xticklabels()}
    assert ticks
    names = [text.get_text() for text in left.texts]
    assert names == ["noise (−20.0)", "flow", "filters"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"as {HMC}", f"as {FROZEN}"]
    assert len({handle.get_marker() for handle in legend.legend_handles}) == 2


def test_a_bound_is_a_dashed_line_and_marked():
    uses = {"hmc_vae": PriorUse("vae", HMC, [7]), "hmc_gauss": PriorUse("gauss", HMC, [7])}
    run = replace(prior_run({"vae": 0.0, "gauss": 0.0}, uses), scores=scored(7))
    figure = figures.find("prior_comparison")(run, Plot())
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["gauss", "vae (≥)"]
    styles = {
        line.get_xdata()[0]: line.get_linestyle() for line in ax.lines if list(line.get_ydata()) == [0, 1]
    }
    assert styles == {48.5: "--", 46.5: "-"}
    assert "K = 5" in figure.legends[0].get_texts()[-1].get_text()


def test_names_of_many_priors_do_not_overlap():
    names = [f"prior_{number}" for number in range(15)]
    densities = {name: 50 + 0.01 * number for number, name in enumerate(names)}
    uses = {f"hmc_{name}": PriorUse(name, HMC, [7]) for name in names}
    (ax,) = figures.find("prior_comparison")(prior_run(densities, uses), Plot()).axes
    places = np.array([text.get_position()[0] for text in ax.texts])
    width = np.diff(ax.get_xlim())[0]
    assert len(places) == 15
    # A line of text is a thirtieth of the panel.
    assert (np.diff(places) > 0.9 * width / 30).all()
    assert ax.get_xlim()[0] - 0.2 * width < places.min() < places.max() < ax.get_xlim()[1] + 0.2 * width


def test_methods_without_a_finite_result_are_left_out():
    run = prior_run(DENSITIES, USES)
    one = run.experiments["few_shot"]
    rows = one.rows.assign(value=one.rows["value"].where(one.rows["method"] != "hmc_noise", np.nan))
    (ax, _) = figures.find("prior_comparison")(
        replace(run, experiments={"few_shot": replace(one, rows=rows)}), Plot()
    ).axes
    assert [text.get_text() for text in ax.texts] == ["flow", "filters"]
    table = pages.comparison_tables(replace(run, experiments={"few_shot": replace(one, rows=rows)}))[0]
    assert cells(table)["noise"][f"accuracy ({HMC})"] == "–"
    nothing = replace(one, rows=one.rows.assign(value=np.nan))
    figures.find("prior_comparison")(replace(run, experiments={"few_shot": nothing}), Plot())
