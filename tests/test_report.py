"""The whole report: exactly the declared files, with the same bytes each time."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from report_samples import sampled, scored, synthetic
from safetensors.torch import save_file

import dwp.experiments
from dwp.errors import InputError
from dwp.experiments import base
from dwp.experiments.methods import PriorUse
from dwp.kernels import store
from dwp.priors.base import find, save_prior
from dwp.report import build, catalogue, figures
from dwp.report.catalogue import Contents, Item

CAPTIONS = Path(__file__).parents[1] / "workflow" / "report"


USES = {
    "dwp": PriorUse("vae", "prior, additive", [7, 5]),
    "standard_normal": PriorUse("standard_normal", "prior, additive", [7, 5]),
}


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
    image_vae = synthetic("image_vae", [f"method_{index}" for index in range(12)], [3], 1)
    image_vae["metric"] = image_vae["metric"].map(
        {"accuracy": "lower_bound", "nll": "reconstruction", "ece": "code_kl", "kl": "train_lower_bound"}
    )
    experiments = {
        "few_shot": synthetic("few_shot", ["dwp", "standard_normal"], [50, 100], 2),
        "convergence": synthetic("convergence", ["xavier", "filters", "dwp_sample"], [1.0], 2),
        "random_features": synthetic("random_features", ["xavier"], [0.25, 1.0], 1),
        "image_vae": image_vae,
    }
    for name, table in experiments.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    nets = pd.DataFrame({"net": [0, 1], "seed": [0, 1], "accuracy": [0.8, 0.9], "nll": [0.5, 0.4]})
    nets.to_csv(folder / "nets.csv", index=False)
    for size in (7, 5):
        scored(size).to_csv(folder / f"scores-{size}x{size}.csv", index=False)
        sampled(size).to_csv(folder / f"scores-{size}x{size}.samples.csv", index=False)
    return {
        "experiments": {name: [folder / f"{name}.csv"] for name in experiments},
        "stores": stores,
        "priors": priors,
        "histories": histories,
        "nets": [folder / "nets.csv"],
        "scored": [folder / f"scores-{size}x{size}.csv" for size in (7, 5)],
        "sampled": [folder / f"scores-{size}x{size}.samples.csv" for size in (7, 5)],
        "switches": {"few_shot": ["outliers"]},
        "kinds": {"vae": "vae", "standard_normal": "standard_normal"},
        "uses": USES,
        "style": {"dpi": 40},
    }


KINDS = {"vae": {7: "vae", 5: "vae"}, "filters": {7: "empirical", 5: "empirical"}}


class Strict(HTMLParser):
    """Collects addresses and anchors; fails on elements that are not closed in order."""

    VOID = ("meta", "link", "img", "br", "hr", "col", "input")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("src", "href", "data", "action") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(page: str) -> Strict:
    """Check that a page is well-formed, self-contained and below 5 MB."""
    assert len(page.encode()) < 5_000_000
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert all(link.startswith(("data:", "#")) for link in parser.links)
    assert {link[1:] for link in parser.links if link.startswith("#")} == set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert not [call for call in ("url(", "@import", "fetch(", "XMLHttp") if call in page]
    return parser


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_is_what_was_declared_and_the_same_each_time(inputs, tmp_path):
    pair = {"source": "notmnist", "target": "mnist"}
    experiments = {name: inputs["switches"].get(name, ()) for name in inputs["experiments"]}
    contents = Contents(experiments, [7, 5], KINDS, nets=True, scores=True, uses=USES)
    declared = catalogue.report_files(contents)
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
    table = pd.read_csv(tmp_path / "a" / "tables" / "samples.csv")
    assert table["nearest"].tolist() == sampled(7)["nearest"].tolist() * 2
    table = pd.read_csv(tmp_path / "a" / "tables" / "prior_comparison.csv")
    used = table[table["method"].notna()]
    assert used["prior"].tolist() == ["vae", "vae", "standard_normal", "standard_normal"] * 2
    assert np.isfinite(used[["log_density", "setting", "accuracy", "nll"]]).all(axis=None)
    page = made["pages/report.html"].decode()
    assert declared[0].path == "pages/report.html"
    assert declared[0].category == min(output.category for output in declared)
    check_page(page)
    images = [output.path for output in declared if output.path.endswith(".png")]
    assert page.count("<img ") == page.count("base64,") == len(images)
    assert page.count('class="explorer"') == 2
    for name in ("pages/few_shot.html", "tables/few_shot.csv", "tables/few_shot_curves.csv"):
        text = made[name].decode()
        assert "predict_flops" in text
        assert "bin_accuracy" not in text


def test_the_page_has_sections_titles_and_captions(inputs, tmp_path):
    captions = {"few_shot.rst": "Our *caption*.", "findings.rst": "Of the findings."}
    titles, learned = {"few_shot": {"dwp": "Our prior"}}, {"few_shot": ["dwp"]}
    given = inputs | {"experiments": {"few_shot": inputs["experiments"]["few_shot"]}}
    build.make(tmp_path, **given, titles=titles, learned=learned, captions=captions, target="digits")
    page = (tmp_path / "pages" / "report.html").read_text()
    ids = check_page(page).ids
    assert ids == ["kernels", *(f"few_shot-{part}" for part in ("results", "reliability", "cost"))]
    assert "<p>Our <em>caption</em>.</p>" in page
    assert "<p>Of the findings.</p>" in page
    assert page.index("“Our prior” is the only method with a learned prior") < page.index('id="kernels"')
    results, cost = page.index('id="few_shot-results"'), page.index('id="few_shot-cost"')
    assert "FLOPs" not in page[results:cost]
    assert "prediction of one image [FLOPs]" in page[cost:]
    assert "Our prior" in (tmp_path / "pages" / "few_shot.html").read_text()
    assert "Our prior" not in (tmp_path / "tables" / "few_shot.csv").read_text()


def test_report_of_given_kernels_and_untrained_priors(inputs, tmp_path):
    given = inputs | {
        "nets": (),
        "scored": (),
        "sampled": (),
        "uses": {},
        "priors": {"filters": inputs["priors"]["filters"]},
        "histories": {},
    }
    # Images of other data sets are not evaluated either.
    given |= {"experiments": {"few_shot": inputs["experiments"]["few_shot"]}, "switches": {}}
    outputs = build.make(tmp_path / "report", **given, source="glyphs", target="digits")
    assert sorted(files(tmp_path / "report")) == sorted(output.path for output in outputs)
    without = ("source_nets", "latent", "scores", "samples", "outliers")
    assert not any(name in output.path for output in outputs for name in without)
    assert any("few_shot_reliability" in output.path for output in outputs)


def test_every_output_has_a_caption():
    switches = ["outliers", "train_reverse_model"]
    outputs = catalogue.report_files(
        Contents(dict.fromkeys(base.known(), switches), [7], {"vae": {7: "vae"}}, scores=True, uses=USES)
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


OWN_FIGURE = """
from dwp.experiments.base import Experiment, Figure, Method, Metric
from dwp.experiments.convergence import Settings


def own_figure(results, plot, *, about):
    figure, axes = plot.canvas(1, 1, 3, 3)
    for method, look in plot.looks(results.rows["method"]).items():
        chosen = results.summary[results.summary["method"] == method]
        axes[0, 0].plot(chosen["setting"], chosen["mean"], **look)
    plot.label(axes[0, 0], x=results.axis_label, y=results.metric_title("accuracy"))
    plot.title(figure, f"{results.title}: {about}")
    return figure


EXPERIMENT = Experiment(
    title="A thing that is new",
    axis="width",
    axis_label="width factor",
    settings=Settings,
    method=Method,
    metrics=(Metric("accuracy", "accuracy of the new thing", better="higher"),),
    figures=(
        Figure(),
        Figure(
            suffix="own", label="its own", caption="new_thing", draw=own_figure, options={"about": "own"}
        ),
    ),
    run=lambda task: [{"step": 0, "metric": "accuracy", "value": 1.0}],
)
"""


@pytest.fixture
def new_thing(tmp_path, monkeypatch):
    """An experiment outside this library, in one file."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "new_thing.py").write_text(OWN_FIGURE)
    monkeypatch.setattr(dwp.experiments, "__path__", [*dwp.experiments.__path__, str(folder)])
    yield
    sys.modules.pop("dwp.experiments.new_thing", None)


def test_a_new_experiment_with_a_figure_of_its_own_is_one_file_and_its_caption(inputs, new_thing, tmp_path):
    assert "new_thing" in base.known()
    synthetic("new_thing", ["a", "b"], [0.5, 1.0], 2).to_csv(tmp_path / "cells.csv", index=False)
    given = inputs | {"experiments": {"new_thing": [tmp_path / "cells.csv"]}}
    outputs = {output.path: output for output in build.make(tmp_path / "report", **given)}
    assert outputs.keys() == files(tmp_path / "report").keys()
    for path in ("figures/new_thing.png", "figures/new_thing_own.png", "tables/new_thing_curves.csv"):
        assert outputs[path].labels["shows"].startswith("A thing that is new")
    assert outputs["figures/new_thing_own.png"].caption == "new_thing.rst"
    assert "accuracy of the new thing" in (tmp_path / "report/pages/new_thing.html").read_text()
    missing = [output.caption for output in outputs.values()]
    with pytest.raises(InputError, match=r"there is no caption .*new_thing\.rst"):
        catalogue.check_captions(missing, CAPTIONS)


def test_a_new_figure_of_the_run_is_a_function_and_an_item(inputs, tmp_path, monkeypatch):
    def sizes(results, plot):
        figure, axes = plot.canvas(1, 1, 3, 3)
        axes[0, 0].bar(list(results.stores), [len(results.learned(size)) for size in results.stores])
        return figure

    monkeypatch.setattr(figures.source, "sizes", sizes, raising=False)
    item = Item("figures/sizes", "Priors", "Kernels by size", "kernels", "sizes")
    monkeypatch.setattr(catalogue, "ITEMS", (*catalogue.ITEMS, item))
    outputs = {
        output.path for output in build.make(tmp_path / "report", **inputs | {"experiments": {}, "uses": {}})
    }
    assert {"figures/sizes.png", "figures/sizes.pdf"} <= outputs == files(tmp_path / "report").keys()


def test_what_a_report_holds_is_known_without_what_draws_it():
    code = (
        "import sys\n"
        "from dwp.experiments import base\n"
        "from dwp.report.catalogue import Contents, report_files\n"
        "kinds = {'vae': {7: 'vae'}, 'filters': {7: 'empirical'}}\n"
        "report_files(Contents(dict.fromkeys(base.known(), ['outliers']), [7], kinds, scores=True))\n"
        "print(*{'torch', 'pandas', 'matplotlib', 'numpy', 'pydantic'} & sys.modules.keys())"
    )
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert imported.stdout.split() == []
