"""Single figures, tables and pages, drawn from known results."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from report_samples import results, rows, run_results, sampled, scored, synthetic

from dwp.experiments import base
from dwp.kernels import store
from dwp.priors.base import find
from dwp.report import catalogue, figures, pages, tables
from dwp.report.catalogue import Contents
from dwp.report.figures.plotting import PALETTE, Plot


def table_of(page: str) -> ElementTree.Element:
    """Return the only table of a page."""
    return ElementTree.fromstring(page[page.index("<table") : page.index("</table>") + 8])


def test_figures_are_found_where_they_are_defined():
    names = [item.make for item in catalogue.ITEMS if item.folder == "figures"]
    experiments = map(base.find, base.known())
    draws = [figure.draw for experiment in experiments for figure in experiment.figures]
    names += [draw for draw in draws if isinstance(draw, str)]
    for name in names:
        assert figures.find(name).__module__.startswith("dwp.report.figures.")


def test_bounds_are_marked_as_bounds():
    both = run_results(scores=pd.concat([scored(7), scored(5)]))
    cells = [[cell.text for cell in row] for row in table_of(pages.scores(both)).iter("tr")]
    assert cells[0] == [None, "7×7", "5×5"]
    assert cells[1] == ["vae, K = 1", *["≥ 48.10 ± 0.25"] * 2]
    assert cells[3] == ["gauss", *["46.50 ± 0.25"] * 2]
    (ax,) = figures.priors.scores(run_results(scores=scored(7)), Plot()).axes
    assert [text.get_text() for text in ax.texts] == ["≥ 48.1 → 48.5", "46.5", "-45.9"]
    # The others would be a dot if the axis reached down to it.
    assert ax.get_xlim()[0] > 40


def test_samples_are_shown_beside_held_out_kernels():
    table, other = pages.samples_tables(run_results(samples=pd.concat([sampled(7), sampled(5)])))
    assert (table.heading, other.heading) == ("Samples of each prior, 7×7", "Samples of each prior, 5×5")
    # Times were not measured.
    assert table.columns == ["nearest", "energy", "p", "norm", "low frequencies", "bytes"]
    assert [name for name, _ in table.rows] == ["held-out kernels", "vae", "vae, without noise", "filters"]
    assert [cell.text for cell in table.rows[0][1]][-1] == "–"
    assert [cell.text for cell in table.rows[2][1]] == ["0.2", "0.200", "0.200", "0.2", "0.20", "2,000"]
    timed = sampled(7).assign(fit_seconds=1234.5)
    (table,) = pages.samples_tables(run_results(samples=timed))
    assert table.columns[-1] == "fit [s]"
    assert table.rows[1][1][-1].text == "1,234.5"


def test_page_shows_the_paper_in_brackets():
    cells = rows(*(("few_shot", "dwp", 50, s, 1, "accuracy", 0.7 + 0.1 * s) for s in (0, 1)))
    page = pages.experiment(results(cells, source="notmnist", target="mnist"))
    assert [[cell.text for cell in row] for row in table_of(page).iter("tr")] == [
        [None, "50"],
        ["dwp", "0.750 ± 0.071 (0.800)"],
    ]
    assert "in brackets the paper’s mean" in page
    assert "<h2>test accuracy <small>(accuracy, higher is better)</small></h2>" in page


def test_names_of_methods_are_text_on_a_page():
    page = pages.experiment(results(rows(("few_shot", "a<b", 50, 0, 1, "accuracy", 0.5))))
    assert table_of(page).find(".//tbody/tr/th").text == "a<b"


def test_a_method_keeps_its_colour_and_the_papers_share_it():
    paper = results(synthetic("convergence", ["dwp_sample"], [1.0], 2), "convergence", "notmnist", "mnist")
    paper.published["step"] = [50, 80, 100] * 3 + [2000] * (len(paper.published) - 9)
    plot = Plot(methods=("xavier", "dwp_sample"))
    ours, filters, dwp, xavier = figures.experiments.by_step(paper, plot, metrics=("accuracy",)).axes[0].lines
    assert ours.get_color() == dwp.get_color() == PALETTE[1]
    # Methods that this run lacks have no colour of their own.
    assert filters.get_color() == xavier.get_color() != ours.get_color()


@pytest.mark.parametrize(("modes", "title"), [(1, "3×3: a single mode"), (2, "3×3: two modes")])
def test_norms_are_shown_with_their_modes_and_threshold(tmp_path, modes, title):
    w = np.random.default_rng(0).normal(size=(400, 3, 3))
    w[200:] *= 1e-3 if modes == 2 else 1
    np.save(tmp_path / "w.npy", w)
    np.save(tmp_path / "again.npy", w[:10])
    counts = store.collect(
        [tmp_path / "w.npy", tmp_path / "again.npy"],
        3,
        tmp_path / "k.h5",
        threshold="otsu",
        test_fraction=0.3,
    )
    pruned = run_results(stores={3: tmp_path / "k.h5"})
    (row,) = tables.kernels(pruned).itertuples()
    assert (row.modes, row.threshold, row.after) == (modes, counts["threshold"], counts["after"])
    assert row.duplicates == (np.linalg.norm(w[:10], axis=(1, 2)) >= row.threshold).sum()
    (ax,) = figures.source.norms(pruned, Plot()).axes
    assert ax.get_title() == title
    assert list(ax.lines[0].get_xdata()) == [row.threshold] * 2
    assert f"threshold {row.threshold:.3g} (otsu)" in [
        text.get_text() for text in ax.get_legend().get_texts()
    ]


def test_many_methods_look_different():
    names = [f"m{index}" for index in range(30)]
    assert len({tuple(map(str, look.values())) for look in Plot().looks(names).values()}) == 30


@pytest.mark.parametrize(("validation", "shown"), [((), 3.0), ((0.5, 0.9, 0.7), 2.0)])
def test_priors_are_judged_at_the_step_that_was_kept(tmp_path, validation, shown):
    w = torch.randn(30, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "w.npy", w.numpy())
    store.collect([tmp_path / "w.npy"], 5, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    rows = [(step, "elbo", float(step)) for step in (1, 2, 3)]
    rows += [(step, "validation_elbo", value) for step, value in enumerate(validation, start=1)]
    history = pd.DataFrame(rows, columns=["step", "metric", "value"])
    prior = find("gaussian").fit(w, w, {})[0]
    table = tables.priors(
        run_results(
            priors={"vae": {5: prior}}, histories={"vae": {5: history}}, stores={5: tmp_path / "k.h5"}
        )
    )
    assert table["elbo"].item() == shown


def test_experiments_on_the_kl_show_changes_and_no_course_of_training():
    cells = synthetic("kl_profile", ["dwp", "standard_normal"], [0.0, 1.0, 2.0], 3)
    cells = cells[(cells["metric"] == "accuracy") & (cells["step"] == 0)].assign(metric="kl", part="7x7")
    cells["value"] += 90 * cells["setting"]
    items = {item.name: item for item in catalogue.items(Contents({"kl_profile": ()}, [], {}))}
    assert {"figures/kl_profile", "tables/kl_profile"} <= items.keys()
    assert "tables/kl_profile_curves" not in items
    (ax,) = figures.experiments.by_setting(results(cells), Plot(), **items["figures/kl_profile"].options).axes
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylabel() == "change of KL(q‖p) [nats per 7×7 kernel]"
    summary = results(cells).summary
    for line, (_, values) in zip(ax.containers, summary.groupby("method", sort=False), strict=True):
        means = values["mean"].to_numpy()
        assert line.lines[0].get_ydata() == pytest.approx(means - means[1])


def test_uncertainty_about_outliers_stands_beside_that_of_a_guess():
    cells = results(synthetic("few_shot", ["dwp"], [50, 100], 2))
    (outliers,) = [
        item
        for item in catalogue.items(Contents({"few_shot": ["outliers"]}, [], {}))
        if item.name == "figures/few_shot_outliers"
    ]
    for ax in figures.experiments.by_setting(cells, Plot(), **outliers.options).axes:
        assert ax.get_ylabel().startswith("AUROC")
        assert [0.5, 0.5] in [list(line.get_ydata()) for line in ax.lines]


def test_a_page_has_the_metrics_in_the_order_of_their_declaration():
    cells = [("few_shot", "dwp", 50, 0, 1, metric, 0.5) for metric in ("train_nll", "unheard_of", "nll")]
    cells += [("few_shot", "dwp", 50, 0, 1, "accuracy", 0.5)]
    headings = re.findall(r"<small>\((\w+)", pages.experiment(results(rows(*cells))))
    assert headings == ["accuracy", "nll", "train_nll", "unheard_of"]
