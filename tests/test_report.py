"""The report's numbers, and its files: all that are declared, no others, the same bytes each time."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dwp import metrics
from dwp.errors import InputError
from dwp.experiments.base import COLUMNS
from dwp.kernels import store
from dwp.priors import scores
from dwp.priors.base import find, save_prior
from dwp.report import build, catalogue, figures, published, tables
from dwp.report.figures import plotting

CAPTIONS = Path(__file__).parents[1] / "workflow" / "report"


def rows(*cells: tuple) -> pd.DataFrame:
    return pd.DataFrame(cells, columns=COLUMNS)


def synthetic(experiment: str, methods: list[str], settings: list[float], seeds: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    last = ["auroc_entropy", "auroc_mutual_information", "train_flops", "predict_flops"]
    last += [f"reliability/{b}/{part}" for b in (9, 14) for part in ("confidence", "accuracy", "fraction")]
    return rows(
        *(
            (experiment, method, setting, seed, step, metric, rng.uniform(0.2, 0.9))
            for method in methods
            for setting in settings
            for seed in range(seeds)
            for step in (0, 50, 100)
            for metric in (
                "accuracy",
                "nll",
                "ece",
                "kl",
                *(last if experiment == "few_shot" and step == 100 else ()),
            )
        )
    )


def scored(size: int) -> pd.DataFrame:
    """Scores of a VAE, a Gaussian, and a standard normal far below both."""
    cells = [("vae", "vae", False, count, 48 + count / 10) for count in (1, 5)]
    cells += [("gauss", "gaussian", True, 1, 46.5), ("standard_normal", "standard_normal", True, 1, -45.9)]
    return pd.DataFrame(
        [(size, *cell[:4], 100, cell[4], 0.25) for cell in cells], columns=list(scores.COLUMNS)
    )


# Tables


def test_summarise_takes_each_seeds_last_step_and_the_sample_deviation():
    table = tables.summarise(
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
    table = tables.summarise(
        rows(*(("e", m, s, 0, 1, "nll", 1.0) for m in ("z", "a", "m") for s in (1000, 50)))
    )
    assert list(zip(table["method"], table["setting"], strict=True)) == [
        (m, s) for m in ("z", "a", "m") for s in (50, 1000)
    ]


def test_curves_keep_steps_apart():
    table = tables.curves(
        rows(*(("e", "a", 1, seed, step, "nll", seed + step) for seed in (0, 2) for step in (0, 10)))
    )
    assert table["step"].tolist() == [0, 10]
    assert table["mean"].tolist() == [1, 11]
    assert table["std"].tolist() == pytest.approx([math.sqrt(2)] * 2)


def reliable(method: str, setting: float, seed: int, *bins: tuple) -> list[tuple]:
    """Rows of a reliability diagram of (bin, confidence, accuracy, fraction)."""
    parts = ("confidence", "accuracy", "fraction")
    return [
        ("e", method, setting, seed, 9, f"reliability/{b}/{part}", value)
        for b, *values in bins
        for part, value in zip(parts, values, strict=True)
    ]


def test_reliability_pools_images_over_seeds():
    table = tables.reliability(
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
    table = tables.reliability(
        rows(
            *(
                ("e", "m", 50, seed, 9, metric, value)
                for seed in range(3)
                for metric, value in metrics.reliability(seeds[seed], labels[seed]).items()
            )
        )
    )
    together = metrics.reliability(torch.cat(seeds), torch.cat(labels))
    found = {
        f"reliability/{row.bin}/{part}": getattr(row, part)
        for row in table.itertuples()
        for part in ("confidence", "accuracy", "fraction")
    }
    assert found == pytest.approx(together)


def test_points_of_curves_are_no_metrics():
    cells = rows(("e", "m", 50, 0, 9, "accuracy", 0.7), *reliable("m", 50, 0, (14, 0.95, 1.0, 1.0)))
    assert tables.summarise(cells)["metric"].tolist() == ["accuracy"]
    assert tables.curves(cells)["metric"].tolist() == ["accuracy"]
    with pytest.raises(InputError, match="no metric reliability"):
        tables.reliability(cells[cells["metric"] == "accuracy"])


def test_bounds_are_marked_as_bounds():
    page = tables.scores_page(pd.concat([scored(7), scored(5)]))
    table = ElementTree.fromstring(page[page.index("<table") : page.index("</table>") + 8])
    cells = [[cell.text for cell in row] for row in table.iter("tr")]
    assert cells[0] == [None, "7×7", "5×5"]
    assert cells[1] == ["vae, K = 1", *["≥ 48.10 ± 0.25"] * 2]
    assert cells[3] == ["gauss", *["46.50 ± 0.25"] * 2]
    (ax,) = figures.scores(scored(7), {}).axes
    assert [text.get_text() for text in ax.texts] == ["≥ 48.1 → 48.5", "46.5", "-45.9"]
    # The others would be a dot if the axis reached down to it.
    assert ax.get_xlim()[0] > 40


def test_read_names_the_file_and_the_missing_column(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("experiment,method\ne,a\n")
    with pytest.raises(InputError, match=r"cells\.csv.*value missing"):
        tables.read([path])
    with pytest.raises(InputError, match="cannot be read"):
        tables.read([tmp_path / "none.csv"])


def test_page_shows_the_paper_in_brackets():
    cells = rows(*(("few_shot", "dwp", 50, s, 1, "accuracy", 0.7 + 0.1 * s) for s in (0, 1)))
    page = tables.page(
        tables.summarise(cells), published.published("few_shot", "notmnist", "mnist"), "Few-shot"
    )
    ElementTree.fromstring(page[page.index("<table") : page.index("</table>") + 8])
    assert "0.750 ± 0.071 (0.800)" in page


# The paper


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


# Figures


def test_a_method_keeps_its_colour_and_the_papers_share_it():
    style = {"methods": ["xavier", "dwp_sample"]}
    cells = synthetic("convergence", ["dwp_sample"], [1.0], 2)
    known = published.published("convergence", "notmnist", "mnist").assign(step=[50, 80, 100] * 3)
    options = {"title": "t", "axis": "width", "metrics": ("accuracy",)}
    axes = figures.by_step(tables.curves(cells), known, style, **options).axes[0]
    ours, filters, dwp, xavier = axes.lines
    assert ours.get_color() == dwp.get_color() == plotting.PALETTE[1]
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
    (row,) = tables.kernels_table({3: tmp_path / "k.h5"}).itertuples()
    assert (row.modes, row.threshold, row.after) == (modes, counts["threshold"], counts["after"])
    assert row.duplicates == (np.linalg.norm(w[:10], axis=(1, 2)) >= row.threshold).sum()
    (ax,) = figures.norms({3: build._histogram(tmp_path / "k.h5")}, build.STYLE).axes
    assert ax.get_title() == title
    assert list(ax.lines[0].get_xdata()) == [row.threshold] * 2
    assert f"threshold {row.threshold:.3g} (otsu)" in [
        text.get_text() for text in ax.get_legend().get_texts()
    ]


def test_many_methods_look_different():
    names = [f"m{index}" for index in range(30)]
    seen = {tuple(map(str, look.values())) for look in plotting.looks({}, names).values()}
    assert len(seen) == 30


# The whole report


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("inputs")
    generator = torch.Generator().manual_seed(0)
    stores, priors, histories = {}, {"vae": {}, "filters": {}}, {"vae": {}, "filters": {}}
    for size, latent in ((7, 2), (5, 4)):
        weight = torch.randn(20, 10, size, size, generator=generator)
        weight[:10] *= 1e-3
        save_file({"0/conv.weight": weight}, folder / f"net-{size}.safetensors")
        stores[size] = folder / f"{size}.h5"
        store.collect(
            [folder / f"net-{size}.safetensors"], size, stores[size], threshold="otsu", test_fraction=0.3
        )
        split = [store.load(stores[size], name) for name in ("train", "test")]
        schedule = {"epochs": 2, "batch": 50, "lr": 1e-3, "precision": "float32"}
        settings = {"vae": {"hidden": 4, "latent": latent, "schedule": schedule}, "empirical": {}}
        for name, kind in (("vae", "vae"), ("filters", "empirical")):
            prior, history = find(kind).fit(*split, settings[kind], seed=0)
            priors[name][size] = folder / f"{name}-{size}.safetensors"
            histories[name][size] = folder / f"{name}-{size}.csv"
            save_prior(prior, priors[name][size])
            pd.DataFrame(history, columns=["step", "metric", "value"]).to_csv(
                histories[name][size], index=False
            )
    experiments = {
        "few_shot": synthetic("few_shot", ["dwp", "standard_normal"], [50, 100], 2),
        "convergence": synthetic("convergence", ["xavier", "filters", "dwp_sample"], [1.0], 2),
        "random_features": synthetic("random_features", ["xavier"], [0.25, 1.0], 1),
        "new_thing": synthetic("new_thing", [f"method_{index}" for index in range(12)], [3], 1),
    }
    for name, table in experiments.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    nets = pd.DataFrame({"net": [0, 1], "seed": [0, 1], "accuracy": [0.8, 0.9], "nll": [0.5, 0.4]})
    nets.to_csv(folder / "nets.csv", index=False)
    for size in (7, 5):
        scored(size).to_csv(folder / f"scores-{size}x{size}.csv", index=False)
    return {
        "experiments": {name: [folder / f"{name}.csv"] for name in experiments},
        "stores": stores,
        "priors": priors,
        "histories": histories,
        "nets": [folder / "nets.csv"],
        "scored": [folder / f"scores-{size}x{size}.csv" for size in (7, 5)],
        "style": {"dpi": 40},
    }


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_is_what_was_declared_and_the_same_each_time(inputs, tmp_path):
    pair = {"source": "notmnist", "target": "mnist"}
    declared = catalogue.report_files(
        inputs["experiments"],
        inputs["stores"],
        {"vae": {7: "vae", 5: "vae"}, "filters": {7: "empirical", 5: "empirical"}},
        nets=True,
        scores=True,
        outliers=["few_shot"],
    )
    assert build.make(tmp_path / "a", **inputs, **pair) == declared
    build.make(tmp_path / "b", **inputs, **pair)
    made = files(tmp_path / "a")
    assert sorted(made) == sorted(output.path for output in declared)
    assert all(made.values())
    assert made == files(tmp_path / "b")
    table = pd.read_csv(tmp_path / "a" / "tables" / "priors.csv")
    assert table["name"].tolist() == ["vae", "vae", "filters", "filters"]
    assert np.isfinite(table[["test_norm", "sample_norm", "mean_sample_norm"]]).all(axis=None)
    assert table["elbo"].notna().tolist() == [True, True, False, False]
    table = pd.read_csv(tmp_path / "a" / "tables" / "scores.csv")
    pd.testing.assert_frame_equal(table, pd.concat([scored(7), scored(5)], ignore_index=True))
    for name in ("pages/few_shot.html", "tables/few_shot.csv", "tables/few_shot_curves.csv"):
        text = made[name].decode()
        assert "predict_flops" in text
        assert "reliability" not in text


def test_report_of_given_kernels_and_untrained_priors(inputs, tmp_path):
    given = inputs | {
        "nets": (),
        "scored": (),
        "priors": {"filters": inputs["priors"]["filters"]},
        "histories": {},
    }
    # Nor did anything look at another data set's images.
    cells = tables.read(inputs["experiments"]["few_shot"])
    cells[~cells["metric"].str.startswith("auroc_")].to_csv(tmp_path / "cells.csv", index=False)
    given |= {"experiments": {"few_shot": [tmp_path / "cells.csv"]}}
    outputs = build.make(tmp_path / "report", **given, source="glyphs", target="digits")
    assert sorted(files(tmp_path / "report")) == sorted(output.path for output in outputs)
    without = ("source_nets", "latent", "scores", "outliers")
    assert not any(name in output.path for output in outputs for name in without)
    assert any("few_shot_reliability" in output.path for output in outputs)


def test_every_output_has_a_caption(inputs):
    outputs = catalogue.report_files(
        [*inputs["experiments"], "other"], [7], {"vae": {7: "vae"}}, scores=True, outliers=["few_shot"]
    )
    assert {output.caption for output in outputs} <= {path.name for path in CAPTIONS.glob("*.rst")}
    assert len({output.path for output in outputs}) == len(outputs)
    assert {tuple(output.labels) for output in outputs} == {("shows", "format")}


def test_a_prior_may_lack_a_size(inputs, tmp_path):
    outputs = build.make(tmp_path, **inputs | {"priors": {"vae": {7: inputs["priors"]["vae"][7]}}})
    paths = {output.path for output in outputs}
    assert sorted(files(tmp_path)) == sorted(paths)
    assert "figures/latent_space-vae-7x7.png" in paths
    assert "figures/latent_space-vae-5x5.png" not in paths


def test_experiments_on_the_kl_show_changes_and_no_course_of_training():
    cells = synthetic("kl_profile", ["dwp", "standard_normal"], [0.0, 1.0, 2.0], 3)
    cells = cells[(cells["metric"] == "accuracy") & (cells["step"] == 0)].assign(metric="kl_7x7")
    cells["value"] += 90 * cells["setting"]
    outputs = {output.path for output in build.report_files(["kl_profile"], [], {})}
    assert {"figures/kl_profile.png", "tables/kl_profile.csv"} <= outputs
    assert not any("kl_profile_curves" in path for path in outputs)
    style = build.STYLE | {"methods": ["dwp", "standard_normal"]}
    made = build._of_experiment("kl_profile", cells, published.published("kl_profile", "", ""), style)
    (ax,) = made["figures/kl_profile"]().axes
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylabel() == "change of KL(q‖p) [nats per 7×7 kernel]"
    summary = made["tables/kl_profile"]()
    for line, (_, rows) in zip(ax.containers, summary.groupby("method", sort=False), strict=True):
        means = rows["mean"].to_numpy()
        assert line.lines[0].get_ydata() == pytest.approx(means - means[1])


@pytest.mark.parametrize(("validation", "shown"), [((), 3.0), ((0.5, 0.9, 0.7), 2.0)])
def test_priors_are_judged_at_the_step_that_was_kept(tmp_path, validation, shown):
    w = torch.randn(30, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "w.npy", w.numpy())
    store.collect([tmp_path / "w.npy"], 5, tmp_path / "k.h5", threshold=0, test_fraction=0.3)
    rows = [(step, "elbo", float(step)) for step in (1, 2, 3)]
    rows += [(step, "validation_elbo", value) for step, value in enumerate(validation, start=1)]
    history = pd.DataFrame(rows, columns=["step", "metric", "value"])
    prior = find("gaussian").fit(w, w, {})[0]
    table = tables.priors_table({"vae": {5: prior}}, {"vae": {5: history}}, {5: tmp_path / "k.h5"})
    assert table["elbo"].item() == shown
