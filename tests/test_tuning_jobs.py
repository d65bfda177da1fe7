"""Jobs of the tuning: chosen settings reach the target, and diverged trials lose."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from configurations import BASE, conv, merged, network, plan

from dwp.data import Dataset, save
from dwp.errors import InputError
from dwp.pipeline import paths
from dwp.pipeline.stages import experiment, tuning
from dwp.report import aggregation, catalogue
from dwp.report.catalogue import Contents

ABSURD, GOOD = 1e20, 0.01
SETTINGS = {
    "examples": [12],
    "seeds": 2,
    "network": network(conv(7, pool=2), conv(5)),
    "schedule": {"steps": 4, "batch": None},
    "every": 0,
    "ensemble": 2,
}
L2 = "l2_xavier"


class Job:
    """A job of a plan in the working directory, without Snakemake; it writes the file's table."""

    device, config = torch.device("cpu"), {}

    def __init__(self, made, file: str) -> None:
        self.spec, self.facts = made.spec(paths.version(file)), {}
        self.params = self.spec["params"]
        pattern = paths.CELL if paths.CELL.parse(file) else paths.TUNING
        fields = pattern.fields(file)
        self.wildcards = SimpleNamespace(**fields)
        if pattern == paths.TUNING:
            inputs = {"trials": made.trial_cells(fields["experiment"], fields["method"])}
            self.output = SimpleNamespace(table=file, chosen=file.replace(".csv", ".json"))
        else:
            inputs = made.cell_inputs(paths.version(file), fields["shard"])
            self.output = SimpleNamespace(rows=file)
        self.input = type("Input", (dict,), {"__getattr__": dict.__getitem__})(inputs)

    def record(self, **facts) -> None:
        self.facts |= facts

    def checkpoint(self) -> None:
        return None

    def completed_elsewhere(self) -> list:
        return []


def make(made, file: str) -> Job:
    """Run the job of a table."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    job = Job(made, file)
    (experiment if paths.CELL.parse(file) else tuning).main(job)
    return job


def tune(made, name: str = L2) -> Job:
    """Run the trials of a method, the choice and the target's first cell; return the job of the last."""
    for cell in made.trial_cells("few_shot", name):
        make(made, cell)
    make(made, made.tuning_file("few_shot", name))
    return make(made, cell_of(made, name))


def cell_of(made, name: str) -> str:
    return next(cell for cell in made.cells("few_shot") if f"/{name}_" in cell)


def few_shot(space=None, **overlay):
    """Return the plan of a small few_shot with one method, tuned over a space if one is given."""
    methods = dict.fromkeys(BASE["experiments"]["few_shot"]["methods"]) | {L2: {}}
    settings = merged(SETTINGS | {"methods": methods}, overlay)
    if space is not None:
        tuning = {"trials": 4, "examples": [9], "seeds": 2, "metric": "nll", "space": space}
        settings["tuning"] = tuning | overlay.get("tuning", {})
    return plan({"source": {"network": SETTINGS["network"]}, "experiments": {"few_shot": settings}})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder with small data sets in place of glyphs and digits."""
    monkeypatch.chdir(tmp_path)
    made = few_shot()
    for seed, name in enumerate(("glyphs", "digits")):
        generator = torch.Generator().manual_seed(seed)
        images = [
            torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=generator) for n in (40, 60)
        ]
        file = Path(made.dataset_file(name))
        file.parent.mkdir(parents=True)
        save(Dataset(name, images[0], torch.arange(40) % 3, images[1], torch.arange(60) % 3), file)
    return tmp_path


def test_the_settings_of_the_best_trial_are_those_of_the_target():
    job = tune(made := few_shot({"lr": [ABSURD, GOOD]}))
    assert json.loads(Path(made.tuning_file("few_shot", L2, suffix="json")).read_text()) == {"lr": GOOD}
    assert job.facts == {"chosen": {"lr": GOOD}}
    table = pd.read_csv(made.tuning_file("few_shot", L2))
    assert tuple(table.columns) == aggregation.TRIALS
    assert table["chosen"].tolist() == [False, True]
    assert table["settings"].map(json.loads).tolist() == [{"lr": ABSURD}, {"lr": GOOD}]
    assert np.isnan(table["mean"][0])
    # Mean and standard error over the tasks, of which there are two.
    (cell,) = (cell for cell in made.trial_cells("few_shot", L2) if table["version"][1] in cell)
    rows = pd.read_csv(cell)
    nll = rows.loc[(rows["metric"] == "nll") & (rows["step"] == 4), "value"]
    assert len(nll) == 2
    assert table["mean"][1] == pytest.approx(nll.mean())
    assert table["standard_error"][1] == pytest.approx(abs(nll.iloc[0] - nll.iloc[1]) / 2)
    # The target's rows are those of a run with that rate, and not those of a run without tuning.
    found = Path(cell_of(made, L2)).read_bytes()
    for rate, equal in ((GOOD, True), (0.005, False)):
        fixed = few_shot(schedule={"lr": rate})
        make(fixed, cell_of(fixed, L2))
        assert (Path(cell_of(fixed, L2)).read_bytes() == found) == equal


def test_settings_of_the_method_and_of_the_experiment_are_chosen_too():
    space = {"l2": [0.1], "ensemble": [3], "init": [{"from": "he"}]}
    tune(made := few_shot(space))
    method = {"l2": 0.1, "init": {"from": "he"}}
    fixed = few_shot(ensemble=3, methods={L2: method})
    make(fixed, cell_of(fixed, L2))
    assert Path(cell_of(fixed, L2)).read_bytes() == Path(cell_of(made, L2)).read_bytes()


def test_a_chosen_start_from_xavier_is_no_start_from_source_networks():
    made = few_shot({"init": [{"from": "pretrained"}, {"from": "xavier"}]})
    cell, file = cell_of(made, L2), Path(made.tuning_file("few_shot", L2, suffix="json"))
    assert made.cell_inputs(paths.version(cell), "000-001")["pretrained"] == made.source_files()[:1]
    file.parent.mkdir(parents=True)
    file.write_text('{"init": {"from": "xavier"}}')
    # There are no source networks, which would be read.
    make(made, cell)
    fixed = few_shot()
    make(fixed, cell_of(fixed, L2))
    assert Path(cell).read_bytes() == Path(cell_of(fixed, L2)).read_bytes()


def test_trials_on_the_source_see_its_test_images_alone(folder):
    made = few_shot({"lr": [GOOD]})
    (cell,) = made.trial_cells("few_shot", L2)
    seen = []

    def run(*arguments, dataset, **others):
        seen.append(dataset)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "run", run)
        make(made, cell)
    source = experiment.images.load(made.dataset_file("glyphs"))
    halves = torch.cat([seen[0].train_images, seen[0].test_images])
    assert halves.shape == source.test_images.shape
    order = [
        int(image) for image in (halves[:, None] == source.test_images).flatten(2).all(2).int().argmax(1)
    ]
    assert sorted(order) == list(range(len(source.test_images)))


def test_if_every_trial_has_diverged_the_error_says_which():
    with pytest.raises(
        InputError,
        match=r"tuning of few_shot, method l2_xavier, by nll: none of the 2 trials .*change the space",
    ):
        tune(few_shot({"lr": [ABSURD, 10 * ABSURD]}))


def test_a_trial_whose_predictions_are_nan_has_diverged():
    # The loss of the only step is finite; the weights after it are not.
    made = few_shot({"lr": [1e38, GOOD]}, schedule={"steps": 1})
    tune(made)
    table = pd.read_csv(made.tuning_file("few_shot", L2))
    assert np.isnan(table["mean"]).tolist() == [True, False]
    assert table["chosen"].tolist() == [False, True]


def test_a_metric_that_trials_do_not_have_is_an_error():
    made = few_shot({"lr": [GOOD]}, tuning={"metric": "auroc_entropy"})
    with pytest.raises(InputError, match="trials have no metric auroc_entropy; choose by another"):
        tune(made)


def test_a_target_that_diverges_is_an_error():
    made = few_shot(schedule={"lr": ABSURD})
    with pytest.raises(FloatingPointError):
        make(made, cell_of(made, L2))


def test_tables_and_figures_of_the_tuning_are_there_if_something_is_tuned():
    def shown(**more):
        return {one.path for one in catalogue.report_files(Contents({"few_shot": ()}, [7], {}, **more))}

    added = shown(tuned=["few_shot"]) - shown()
    assert added == {
        *("figures/few_shot_tuning.png", "figures/few_shot_tuning.pdf", "tables/few_shot_tuning.csv"),
    }
    assert few_shot({"lr": [GOOD]}).contents.tuned == ["few_shot"]
    assert few_shot().contents.tuned == []


def test_a_method_overrides_settings_of_the_schedule_and_the_experiment():
    override = {"lr": 0.5, "ensemble": 3}
    made = few_shot({"l2": [0.1, 0.2]}, methods={L2: {"override": override}})
    for artifact in (made.methods["few_shot", L2], *made.trials["few_shot", L2]):
        assert artifact.params["settings"]["schedule"]["lr"] == 0.5
        assert artifact.params["settings"]["ensemble"] == 3
        assert "override" not in artifact.params["method"]
    plain = few_shot({"l2": [0.1, 0.2]})
    assert plain.methods["few_shot", L2].version != made.methods["few_shot", L2].version


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"lrr": 1}, "override: 'lrr' is not known"),
        ({"l2": 1}, "override.l2: it is a setting of the method"),
        ({"lr": -1}, "override: .*lr: -1"),
    ],
)
def test_an_override_that_is_not_allowed_is_refused(override, message):
    with pytest.raises(InputError, match=message):
        few_shot(methods={L2: {"override": override}})
