"""Findings: the sentences and their figure, marks and names in tables, the explorer, captions."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from report_samples import results, rows, run_results, synthetic

from dwp.kernels import store
from dwp.priors.base import find
from dwp.report import aggregation, explorer, figures, findings, front, pages
from dwp.report.figures.plotting import Plot

SEEDS = range(5)


def accuracies(name="few_shot", **means: tuple[float, ...]) -> pd.DataFrame:
    """Return accuracies of methods by setting (50, 200), seeds around the means with paired noise."""
    noise = np.random.default_rng(0).normal(0, 0.05, len(SEEDS))
    own = np.random.default_rng(1).normal(0, 0.01, (len(means), 2, len(SEEDS)))
    return rows(
        *(
            (name, method, setting, seed, 1, "accuracy", mean + noise[seed] + own[row, column, seed])
            for row, (method, values) in enumerate(means.items())
            for column, (setting, mean) in enumerate(zip((50, 200), values, strict=False))
            for seed in SEEDS
        )
    )


def found(table: pd.DataFrame, *learned: str, **titles: str):
    return replace(results(table), learned=learned, titles=titles)


LEADS = {"dwp": (0.7, 0.9), "flow": (0.6, 0.8), "xavier": (0.6, 0.9), "he": (0.5, 0.95)}


def test_the_sentences_have_the_numbers_of_the_tables():
    run = found(accuracies(**LEADS), "dwp", "flow", dwp="DWP, Gaussian posterior")
    first, second, third = findings.sentences(run)
    summary = run.summary.set_index(["method", "setting"])

    def shown(method, setting):
        row = summary.loc[(method, setting)]
        return f"{row['mean']:.3f} ± {row['std']:.3f}"

    def interval(method, reference, setting):
        both = run.rows[run.rows["method"].isin([method, reference]) & (run.rows["setting"] == setting)]
        (row,) = aggregation.paired(both, ["accuracy"], reference).itertuples()
        numbers = (row.difference, row.difference - row.half_width, row.difference + row.half_width)
        difference, low, high = (f"{number:+.3f}".replace("-", "−") for number in numbers)
        return f"difference {difference}, paired 95 % interval {low} to {high}, 5 seeds"

    assert first == (
        "With 50 training examples, “DWP, Gaussian posterior” is the best of 2 methods with a learned prior: "
        f"test accuracy {shown('dwp', 50)}."
    )
    assert second == (
        f"It leads “xavier”, the best of 2 methods without one ({shown('xavier', 50)}): "
        f"{interval('dwp', 'xavier', 50)}."
    )
    assert third == (
        "With 200 training examples, “DWP, Gaussian posterior” is the best with a learned prior "
        f"({shown('dwp', 200)}); it is behind “he”, the best without one ({shown('he', 200)}): "
        f"{interval('dwp', 'he', 200)}."
    )
    size = findings.number(abs(findings.compare(run, 50).difference))
    assert (
        findings.headline(run)
        == f"With 50 training examples, a learned prior leads by {size} in test accuracy"
    )


@pytest.mark.parametrize(
    ("learned", "verdict", "heading"),
    [
        (0.7, "leads", r"a learned prior leads by 0\.\d{3} in test accuracy"),
        (0.5, "is behind", r"a learned prior is behind by 0\.\d{3} in test accuracy"),
        (0.6, "does not differ", "a learned prior makes no significant difference"),
    ],
)
def test_a_lead_no_difference_and_a_lag_are_said_alike(learned, verdict, heading):
    run = found(accuracies(dwp=(learned,), xavier=(0.6,)), "dwp")
    assert findings.compare(run, 50).verdict == verdict
    assert re.fullmatch(f"With 50 training examples, {heading}", findings.headline(run))
    first, second, third = findings.sentences(run)
    assert "is the only method with a learned prior" in first
    said = f"{verdict} significantly from" if verdict == "does not differ" else verdict
    assert second.startswith(f"It {said} “xavier”, the only method without one")
    assert third == "The run has no other value of training examples to compare at."


@pytest.mark.parametrize(("dwp", "verdict"), [(0.3, "leads"), (0.9, "is behind")])
def test_lower_is_better_where_the_metric_says_so(dwp, verdict):
    table = accuracies("image_vae", dwp=(dwp,), xavier=(0.6,)).assign(metric="lower_bound")
    run = found(table, "dwp")
    first, *others = run.experiment.metrics
    run = replace(run, experiment=replace(run.experiment, metrics=(replace(first, better="lower"), *others)))
    assert findings.compare(run, 50).verdict == verdict
    assert findings.headline(run).startswith("At width factor 50, a learned prior")


def test_one_seed_has_no_interval():
    table = accuracies(dwp=(0.7, 0.8), xavier=(0.6, 0.8))
    run = found(table[table["seed"] == 0], "dwp")
    assert findings.headline(run) == (
        "With 50 training examples, one seed cannot tell whether a learned prior helps"
    )
    second = findings.sentences(run)[1]
    assert "with a single seed, their difference of +0." in second
    assert "95 %" not in second


@pytest.mark.parametrize(("learned", "word"), [((), "No"), (("dwp", "xavier"), "Every")])
def test_methods_of_one_kind_have_nothing_to_compare(learned, word):
    run = found(accuracies(dwp=(0.7,), xavier=(0.6,)), *learned)
    assert findings.headline(run) == "With 50 training examples, dwp is best"
    assert findings.sentences(run)[1].startswith(f"{word} method with a finite result uses a learned prior")
    figures.findings.findings(run_results(experiments={"few_shot": run}), Plot())


def test_a_run_without_trained_networks_says_so():
    assert findings.headline(None) == "This run compares no trained networks"
    assert len(findings.sentences(None)) == 1


def test_diverged_methods_are_neither_best_nor_an_error():
    table = accuracies(dwp=(0.9, 0.7), flow=(0.7, 0.7), xavier=(0.6, 0.6))
    table.loc[table["method"] == "dwp", "value"] = np.nan
    assert findings.compare(found(table, "dwp", "flow"), 50).learned == "flow"
    table["value"] = np.nan
    run = found(table, "dwp", "flow")
    assert findings.headline(run) == "No finite result"
    assert findings.sentences(run) == ["No method has a finite result."]
    figures.findings.findings(run_results(experiments={"few_shot": run}), Plot())


def test_the_figure_has_the_differences_of_the_sentences():
    run = found(accuracies(**LEADS), "dwp", "flow", dwp="DWP, Gaussian posterior")
    left, right = figures.findings.findings(run_results(experiments={"few_shot": run}), Plot()).axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[0] == "DWP, Gaussian posterior"
    drawn = {bar.lines[0].get_ydata()[0]: bar.lines[0].get_xdata()[0] for bar in right.containers}
    assert drawn[0] == pytest.approx(findings.compare(run, 50).difference)
    filled = [bar.lines[0].get_markerfacecolor() != "white" for bar in left.containers]
    assert filled == [name in ("DWP, Gaussian posterior", "flow") for name in names]


# Tables


def test_the_best_is_bold_and_ties_are_marked_by_the_declared_direction():
    table = accuracies(best=(0.7,), tie=(0.699,), worse=(0.6,))
    table = pd.concat([table, table.assign(metric="nll")], ignore_index=True)
    accuracy, nll = pages.metric_tables(results(table), lambda metric: True)
    assert {name: cells[0].mark for name, cells in accuracy.rows} == {
        "best": "best",
        "tie": "tie",
        "worse": "",
    }
    assert {name: cells[0].mark for name, cells in nll.rows} == {"best": "", "tie": "", "worse": "best"}
    assert (accuracy.note, nll.note) == ("accuracy, higher is better", "nll, lower is better")
    assert nll.heading == "test NLL [nats]"
    page = pages.experiment(results(table))
    assert [page.count(f'class="{mark}"') for mark in ("best", "tie")] == [2, 1]


def test_costs_are_no_results():
    run = results(synthetic("few_shot", ["a", "b"], [50.0], 2))
    shown = [table.heading for table in pages.metric_tables(run, lambda metric: metric.role == "result")]
    assert shown[0] == "test accuracy"
    assert not any("FLOPs" in heading or "KL" in heading for heading in shown)
    assert pages.experiment(run).rindex("FLOPs") > pages.experiment(run).rindex("KL(q‖p)")


def test_titles_name_methods_in_figures_and_on_pages_but_not_in_tables():
    run = found(accuracies(m_1=(0.7, 0.8), m_2=(0.6, 0.7)), m_1="DWP <1>")
    page = pages.experiment(run)
    assert re.findall(r"DWP &lt;1&gt;|m.[12]", page) == ["DWP &lt;1&gt;", "m 2"]
    assert set(run.summary["method"]) == {"m_1", "m_2"}
    plot = Plot(titles=run.titles)
    (legend,) = figures.experiments.by_setting(run, plot).legends
    assert [text.get_text() for text in legend.get_texts()] == ["DWP <1>", "m 2"]


def test_lines_of_many_methods_differ_without_colour():
    names = [f"m{index}" for index in range(9)]
    run = results(synthetic("few_shot", names, [50.0], 2))
    figure = figures.experiments.by_step(run, Plot(), metrics=("accuracy",))
    assert len({line.get_marker() for line in figure.axes[0].lines}) == 9
    assert len({handle.get_marker() for handle in figure.legends[0].legend_handles}) == 9


# Explorer


@pytest.fixture
def vae(tmp_path, request):
    """A VAE over 3×3 kernels with a latent size, and results with its kernels."""
    w = np.random.default_rng(0).normal(size=(80, 3, 3)).astype(np.float32)
    np.save(tmp_path / "w.npy", w)
    store.collect([tmp_path / "w.npy"], 3, tmp_path / "k.h5", threshold=0, test_fraction=0.2)
    train = store.load(tmp_path / "k.h5", "train")
    schedule = {"epochs": 3, "batch": 20, "lr": 1e-2, "precision": "float32"}
    prior, _ = find("vae").fit(
        train, train, {"hidden": 4, "latent": request.param, "schedule": schedule}, seed=0
    )
    return run_results(priors={"vae": {3: prior}}, stores={3: tmp_path / "k.h5"}), prior, train


def kernels(data: dict, key: str) -> torch.Tensor:
    values = np.frombuffer(base64.b64decode(data[key]), np.uint8).astype(np.float32)
    return torch.from_numpy((values - 128) / 127 * data["limit"]).view(data["rows"], data["columns"], -1)


@pytest.mark.parametrize("vae", [1, 2, 4], indirect=True)
@torch.no_grad()
def test_the_explorer_has_decoded_kernels_and_their_nearest_real_ones(vae):
    run, prior, train = vae
    shown = explorer.explorer(run, prior="vae", size=3)
    data = json.loads(shown.json)
    latent = prior.settings["latent"]
    assert (data["columns"], data["rows"]) == (41, 1 if latent == 1 else 41)
    decoded, nearest = kernels(data, "decoded"), kernels(data, "nearest")
    row, column = (0, 30) if latent == 1 else (5, 30)
    steps = torch.linspace(-2.5, 2.5, 41)
    place = torch.stack([steps[column]] if latent == 1 else [steps[column], steps[40 - row]])
    if latent <= 2:
        z = place[None]
    else:
        codes = prior.encode(train)[0]
        values, vectors = torch.linalg.eigh(codes.double().T.cov())
        axes = (vectors * values.sqrt()).flip(1).T[:2].float()
        axes *= axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        z = codes.mean(0) + place @ axes[None]
        assert "first two principal directions" in shown.text
    tolerance = data["limit"] / 127
    assert torch.allclose(decoded[row, column], prior.decode(z)[0].flatten(), atol=tolerance)
    distances = (train.flatten(1) - prior.decode(z)[0].flatten()).norm(dim=1)
    assert torch.allclose(nearest[row, column], train.flatten(1)[distances.argmin()], atol=tolerance)


@pytest.mark.parametrize("vae", [2], indirect=True)
@torch.no_grad()
def test_the_density_is_where_the_codes_are(vae):
    run, prior, train = vae
    data = json.loads(explorer.explorer(run, prior="vae", size=3).json)
    density = np.frombuffer(base64.b64decode(data["density"]), np.uint8).reshape(41, 41)
    cells = ((prior.encode(train)[0] / 2.5 + 1) * 20).round().long()
    inside = ((cells >= 0) & (cells <= 40)).all(1)
    places = {(40 - int(y), int(x)) for x, y in cells[inside]}
    assert places == set(zip(*map(np.ndarray.tolist, density.nonzero()), strict=True))


# Captions


def test_captions_are_shown_as_html():
    assert front._html("One *two* <three>\nfour.").strip() == "<p>One <em>two</em> &lt;three&gt;\nfour.</p>"
    assert "include" not in front._html(".. include:: /etc/passwd\n")
