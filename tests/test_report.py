"""The report's numbers, and its files: all that are declared, no others, the same bytes each time."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dwp import figures, kernels, paper, report, tables
from dwp.errors import InputError
from dwp.experiments import COLUMNS
from dwp.priors import find, save_prior

CAPTIONS = Path(__file__).parents[1] / "workflow" / "report"


def rows(*cells: tuple) -> pd.DataFrame:
    return pd.DataFrame(cells, columns=COLUMNS)


def synthetic(experiment: str, methods: list[str], settings: list[float], seeds: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return rows(
        *(
            (experiment, method, setting, seed, step, metric, rng.uniform(0.2, 0.9))
            for method in methods
            for setting in settings
            for seed in range(seeds)
            for step in (0, 50, 100)
            for metric in ("accuracy", "nll", "ece", "kl")
        )
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


def test_read_names_the_file_and_the_missing_column(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("experiment,method\ne,a\n")
    with pytest.raises(InputError, match=r"cells\.csv.*value missing"):
        tables.read([path])
    with pytest.raises(InputError, match="cannot be read"):
        tables.read([tmp_path / "none.csv"])


def test_page_shows_the_paper_in_brackets():
    cells = rows(*(("few_shot", "dwp", 50, s, 1, "accuracy", 0.7 + 0.1 * s) for s in (0, 1)))
    page = tables.page(tables.summarise(cells), paper.published("few_shot", "notmnist", "mnist"), "Few-shot")
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
    table = paper.published(experiment, *data)
    chosen = table[(table["method"] == method) & (table["setting"] == setting)]
    chosen = chosen[chosen["step"].isna() if step is None else chosen["step"] == step]
    assert chosen["value"].tolist() == [value]
    assert chosen["from_plot"].tolist() == [from_plot]


def test_nothing_is_published_on_other_data():
    assert paper.published("few_shot", "glyphs", "digits").empty
    assert paper.published("unheard_of", "notmnist", "mnist").empty
    assert tuple(paper.published("few_shot", "glyphs", "digits").columns) == paper.COLUMNS


# Figures


def test_a_method_keeps_its_colour_and_the_papers_share_it():
    style = {"methods": ["xavier", "dwp_sample"]}
    cells = synthetic("convergence", ["dwp_sample"], [1.0], 2)
    known = paper.published("convergence", "notmnist", "mnist").assign(step=[50, 80, 100] * 3)
    options = {"title": "t", "axis": "width", "metrics": ("accuracy",)}
    axes = figures.by_step(tables.curves(cells), known, style, **options).axes[0]
    ours, filters, dwp, xavier = axes.lines
    assert ours.get_color() == dwp.get_color() == figures.plotting.PALETTE[1]
    # Methods that this run lacks have no colour of their own.
    assert filters.get_color() == xavier.get_color() != ours.get_color()


def test_many_methods_look_different():
    names = [f"m{index}" for index in range(30)]
    seen = {tuple(map(str, look.values())) for look in figures.plotting.looks({}, names).values()}
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
        kernels.collect(
            [folder / f"net-{size}.safetensors"], size, stores[size], threshold="otsu", test_fraction=0.3
        )
        split = [kernels.load(stores[size], name) for name in ("train", "test")]
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
    nets = pd.DataFrame({"net": [0, 1], "accuracy": [0.8, 0.9], "nll": [0.5, 0.4], "seconds": [2.0, 3.0]})
    nets.to_csv(folder / "nets.csv", index=False)
    return {
        "experiments": {name: [folder / f"{name}.csv"] for name in experiments},
        "stores": stores,
        "priors": priors,
        "histories": histories,
        "nets": [folder / "nets.csv"],
        "style": {"dpi": 40},
    }


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_is_what_was_declared_and_the_same_each_time(inputs, tmp_path):
    pair = {"source": "notmnist", "target": "mnist"}
    declared = report.report_files(
        inputs["experiments"],
        inputs["stores"],
        {"vae": {7: "vae", 5: "vae"}, "filters": {7: "empirical", 5: "empirical"}},
        nets=True,
    )
    assert report.make(tmp_path / "a", **inputs, **pair) == declared
    report.make(tmp_path / "b", **inputs, **pair)
    made = files(tmp_path / "a")
    assert sorted(made) == sorted(output.path for output in declared)
    assert all(made.values())
    assert made == files(tmp_path / "b")
    table = pd.read_csv(tmp_path / "a" / "tables" / "priors.csv")
    assert table["name"].tolist() == ["vae", "vae", "filters", "filters"]
    assert np.isfinite(table[["test_norm", "sample_norm", "mean_sample_norm"]]).all(axis=None)
    assert table["elbo"].notna().tolist() == [True, True, False, False]


def test_report_of_given_kernels_and_untrained_priors(inputs, tmp_path):
    given = inputs | {"nets": (), "priors": {"filters": inputs["priors"]["filters"]}, "histories": {}}
    given |= {"experiments": {"few_shot": inputs["experiments"]["few_shot"]}}
    outputs = report.make(tmp_path, **given, source="glyphs", target="digits")
    assert sorted(files(tmp_path)) == sorted(output.path for output in outputs)
    assert not any("source_nets" in output.path or "latent" in output.path for output in outputs)


def test_every_output_has_a_caption(inputs):
    outputs = report.report_files([*inputs["experiments"], "other"], [7], {"vae": {7: "vae"}})
    assert {output.caption for output in outputs} <= {path.name for path in CAPTIONS.glob("*.rst")}
    assert len({output.path for output in outputs}) == len(outputs)
    assert {tuple(output.labels) for output in outputs} == {("shows", "format")}


def test_a_prior_may_lack_a_size(inputs, tmp_path):
    outputs = report.make(tmp_path, **inputs | {"priors": {"vae": {7: inputs["priors"]["vae"][7]}}})
    paths = {output.path for output in outputs}
    assert sorted(files(tmp_path)) == sorted(paths)
    assert "figures/latent_space-vae-7x7.png" in paths
    assert "figures/latent_space-vae-5x5.png" not in paths


def test_experiments_on_the_kl_show_changes_and_no_course_of_training():
    cells = synthetic("kl_profile", ["dwp", "standard_normal"], [0.0, 1.0, 2.0], 3)
    cells = cells[(cells["metric"] == "accuracy") & (cells["step"] == 0)].assign(metric="kl_7x7")
    cells["value"] += 90 * cells["setting"]
    outputs = {output.path for output in report.report_files(["kl_profile"], [], {})}
    assert {"figures/kl_profile.png", "tables/kl_profile.csv"} <= outputs
    assert not any("kl_profile_curves" in path for path in outputs)
    style = report.STYLE | {"methods": ["dwp", "standard_normal"]}
    made = report._of_experiment("kl_profile", cells, paper.published("kl_profile", "", ""), style)
    (ax,) = made["figures/kl_profile"]().axes
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylabel() == "change of KL(q‖p) [nats per 7×7 kernel]"
    summary = made["tables/kl_profile"]()
    for line, (_, rows) in zip(ax.containers, summary.groupby("method", sort=False), strict=True):
        means = rows["mean"].to_numpy()
        assert line.lines[0].get_ydata() == pytest.approx(means - means[1])
