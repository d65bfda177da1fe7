"""Tuning: draws of trials, the choice of the best, refusals, versions and files."""

import math

import pytest
from configurations import BASE, DWP, FEW_SHOT, merged, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from dwp.errors import InputError
from dwp.experiments import _tuning as tuning
from dwp.experiments import base
from dwp.pipeline import paths

FEW = base.find("few_shot")
TUNING = {"trials": 12, "examples": [50], "seeds": 3, "metric": "nll"}
SPACE = {"lr": [0.001, 0.01], "steps": [100, 200, 400]}


def tuned(overlay=None, methods=None, **changes):
    """Return the plan of the default configuration with few_shot tuned, by default over SPACE."""
    schedule = changes.pop("schedule", {})
    chosen_by = TUNING | {"space": SPACE} | changes
    few_shot = {"tuning": chosen_by, "schedule": schedule, "methods": methods or {}}
    return plan(
        merged({"data": {"tuning": "glyphs-k-t"}, "experiments": {"few_shot": few_shot}}, overlay or {})
    )


# Trials


spaces = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=5, unique=True), min_size=1
)


@settings(deadline=None)
@given(spaces, st.integers(1, 40), st.integers(0, 10))
def test_trials_are_distinct_combinations_and_more_of_them_keep_the_others(space, count, more):
    trials = tuning.draw(space, count)
    assert len(trials) == min(count, tuning.combinations_in(space))
    assert all(trial.keys() == space.keys() for trial in trials)
    assert all(value in space[key] for trial in trials for key, value in trial.items())
    distinct = {tuple(sorted(trial.items())) for trial in trials}
    assert len(distinct) == len(trials)
    assert distinct <= {tuple(sorted(trial.items())) for trial in tuning.draw(space, count + more)}
    assert tuning.draw(dict(reversed(space.items())), count) == trials


def test_trials_are_drawn_from_huge_spaces_and_spread_over_them():
    space = {name: list(range(100)) for name in "abcdefg"}
    trials = tuning.draw(space, 200)
    assert all(len({trial[name] for trial in trials}) > 60 for name in space)


@pytest.mark.parametrize(
    ("means", "better", "best"),
    [
        ([0.3, 0.2, 0.4], "lower", 1),
        ([0.3, 0.2, 0.4], "higher", 2),
        ([0.2, 0.1, 0.1], "lower", 1),
        ([0.4, 0.1, 0.4], "higher", 0),
        ([math.nan, 5.0, math.nan], "lower", 1),
        ([math.nan, 5.0, -math.inf], "lower", 1),
        ([math.inf, 5.0], "higher", 1),
    ],
)
def test_the_best_finite_mean_is_chosen_and_of_equal_ones_the_first(means, better, best):
    assert tuning.choose(means, better) == best


def test_if_no_mean_is_finite_nothing_is_chosen():
    with pytest.raises(InputError, match="none of the 2 trials has a finite mean"):
        tuning.choose([math.nan, math.inf], "lower")


def test_chosen_values_go_where_they_are_declared():
    given = {"schedule": {"lr": 1.0, "steps": 5}, "ensemble": 3}
    chosen = {"lr": 0.1, "ensemble": 7, "init": {"from": "he"}}
    changed, method = tuning.apply(FEW, given, {"posterior": "none"}, chosen)
    assert changed == {"schedule": {"lr": 0.1, "steps": 5}, "ensemble": 7}
    assert method == {"posterior": "none", "init": {"from": "he"}}
    assert given == {"schedule": {"lr": 1.0, "steps": 5}, "ensemble": 3}


# Configuration


@pytest.mark.parametrize(
    ("overlay", "parts"),
    [
        ({"data": {"tuning": "digits"}}, ["data.tuning: 'digits' is data.target"]),
        ({"data": {"tuning": "glyphs"}}, ["data.tuning: 'glyphs' is data.source", "use null"]),
        (
            {"data": {"tuning": None, "source": "digits"}},
            ["data.tuning: null takes the test images of data.source, 'digits', which is also data.target"],
        ),
        ({"data": {"tuning": "imagenet"}}, ["data.tuning: unknown data set 'imagenet'"]),
    ],
)
def test_the_data_of_the_trials_are_never_the_target(overlay, parts):
    with pytest.raises(InputError) as refused:
        tuned(overlay)
    assert all(part in str(refused.value) for part in parts), refused.value


@pytest.mark.parametrize(
    ("changes", "methods", "parts"),
    [
        ({"metric": "kl"}, {}, ["tuning.metric: 'kl' is not allowed; expected one of accuracy, nll"]),
        ({"metric": "bin_accuracy"}, {}, ["tuning.metric: 'bin_accuracy'"]),
        ({"trials": 0}, {}, ["tuning.trials: 0", "a whole number from 1"]),
        ({"examples": []}, {}, ["tuning.examples: []"]),
        ({"examples": [30000]}, {}, ["tuning.examples: 30000 is more than the 20000 training images"]),
        ({"space": {"rate": [1]}}, {}, ["tuning.space: 'rate' is not known", "lr, steps"]),
        ({"space": {"examples": [[50]]}}, {}, ["tuning.space: 'examples' is not known"]),
        ({"space": {"seeds": [1, 2]}}, {}, ["tuning.space: 'seeds' is not known"]),
        ({"space": {"lr": []}}, {}, ["tuning.space.lr: []", "at least one value, each once"]),
        ({"space": {"lr": [0.1, 0.1]}}, {}, ["tuning.space.lr: [0.1, 0.1]", "each once"]),
        ({"space": {"lr": ["1e-3"]}}, {}, ["methods.dwp (trial: lr 1e-3): schedule.lr: '1e-3'", "above 0"]),
        # Also where no trial has the value.
        ({"trials": 1, "space": {"lr": [0.1, 0.2, -1]}}, {}, ["(trial: lr -1): schedule.lr: -1", "above 0"]),
        (
            {"space": {"l2": [0.1]}},
            {},
            ["methods.dwp (trial: l2 0.1).l2: 0.1 goes with posterior none"],
        ),
        ({"space": {"epochs": [3]}}, {}, ["schedule: give steps or epochs"]),
        ({}, {"dwp": {"space": {"prior": ["vea"]}}}, ["methods.dwp (trial: ", "'vea' is not known"]),
        ({}, {"dwp": {"space": {"kernel": [1]}}}, ["methods.dwp.space: 'kernel' is not known"]),
    ],
)
def test_spaces_are_checked_like_the_settings_that_they_replace(changes, methods, parts):
    with pytest.raises(InputError) as refused:
        tuned(methods=methods, **changes)
    message = str(refused.value)
    assert message.startswith(f"config: {FEW_SHOT}")
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_a_space_without_tuning_is_refused():
    with pytest.raises(InputError, match=rf"{DWP}.space: without {FEW_SHOT}.tuning, it has no effect"):
        plan({"lr": [0.1]}, f"{DWP}.space")


def test_a_prior_may_come_from_the_space_alone():
    methods = {"dwp": {"prior": None, "space": {"prior": ["vae", "standard_normal"]}}}
    made = tuned(methods=methods, space={})
    assert [trial.chosen for trial in made.config.trials["few_shot"]["dwp"]] == [
        {"prior": "vae"},
        {"prior": "standard_normal"},
    ]


def test_trials_make_jobs():
    with pytest.raises(InputError, match=f"{FEW_SHOT}: makes"):
        tuned(seeds=10**9)


# Artifacts


def versions(made):
    return {"/".join(key): artifact.version for key, artifact in made.methods.items()}


def test_without_tuning_versions_and_files_are_those_of_a_configuration_that_does_not_mention_it():
    nothing = {"few_shot": {"tuning": None, "methods": {"dwp": {"space": None}}}}
    for overlay in ({"data": {"tuning": None}, "experiments": nothing}, {"data": {"tuning": "glyphs-k-t"}}):
        made = plan(overlay)
        assert list(made.artifacts) == list(plan().artifacts)
        assert made.files() == plan().files()
    found = plan().methods["few_shot", "l2_xavier"]
    assert set(found.params) == {"settings", "method", "priors"}
    assert found.params["method"] == {"l2": 0.001, "init": {"from": "xavier"}}
    assert set(found.params["settings"]).isdisjoint({"tuning", "methods", "seeds", "examples"})
    assert set(found.inputs) == {"dataset", "outliers"}


def test_a_trial_is_a_cell_on_other_data_and_its_rows_are_inputs_of_the_tuning():
    made = tuned()
    trials = made.trials["few_shot", "l2_xavier"]
    assert len(trials) == 6
    assert {trial.stage for trial in trials} == {"few_shot"}
    assert {trial.inputs["dataset"] for trial in trials} == {made.dataset("glyphs-k-t")}
    found = {
        (t.params["settings"]["schedule"]["lr"], t.params["settings"]["schedule"]["steps"]) for t in trials
    }
    assert found == {(lr, steps) for lr in SPACE["lr"] for steps in SPACE["steps"]}
    assert not any(trial.params["settings"]["outliers"] for trial in trials)
    artifact = made.tunings["few_shot", "l2_xavier"]
    assert list(artifact.inputs.values()) == trials
    cells = made.trial_cells("few_shot", "l2_xavier")
    assert cells == [trial.path("l2_xavier_examples-50_seeds-000-002.csv") for trial in trials]
    target = made.methods["few_shot", "l2_xavier"]
    assert target.inputs["tuning"] == artifact
    assert target.params["method"] == {"l2": 0.001, "init": {"from": "xavier"}}
    assert set(target.params["settings"]["schedule"]) == {"batch"}
    assert "tuning" not in target.params["settings"]
    inputs = made.cell_inputs(target.version, "000-004")
    assert inputs["tuning"] == artifact.path("few_shot-l2_xavier.json")
    assert inputs["dataset"] == made.dataset_file("digits")
    assert made.cell_inputs(trials[0].version, "000-002") == {
        "dataset": made.dataset_file("glyphs-k-t"),
        "priors": [],
    }
    assert {*cells, artifact.path("few_shot-l2_xavier.json")} <= set(made.files())
    assert {str(paths.manifest(file)) for file in cells} <= set(made.files())
    assert "glyphs-k-t" in made.datasets
    assert not {trial.version for trial in trials} & {artifact.version for artifact in made.named}
    assert made.report_inputs()["tunings"][0] == made.tuning_file("few_shot", "dwp")


def test_null_takes_the_test_images_of_the_source():
    made = tuned({"data": {"tuning": None}})
    (trial, *_), (other, *_) = (one.trials["few_shot", "dwp"] for one in (made, tuned()))
    assert trial.inputs["dataset"] == made.dataset("glyphs")
    assert (trial.params["trial_images"], other.params["trial_images"]) == ("test", "all")


def test_a_method_has_the_priors_of_all_its_trials():
    space = {"prior": ["vae", "standard_normal"], "init": [{"from": "vae"}, {"from": "filters"}]}
    made = tuned(methods={"dwp": {"space": space}}, space={})
    target = made.methods["few_shot", "dwp"]
    assert {"vae-7", "vae-5", "empirical-7", "empirical-5"} <= set(target.inputs)
    assert set(target.params["priors"]) == {"standard_normal"}
    needed = [set(trial.inputs) - {"dataset"} for trial in made.trials["few_shot", "dwp"]]
    assert len(needed) == 4
    assert {frozenset(one) for one in needed} == {
        frozenset({"vae-7", "vae-5"}),
        frozenset({"vae-7", "vae-5", "empirical-7", "empirical-5"}),
        frozenset({"empirical-7", "empirical-5"}),
    }
    assert len(made.cell_inputs(target.version, "000-004")["priors"]) == 4


TUNED = [f"few_shot/{name}" for name in BASE["experiments"]["few_shot"]["methods"]]


@pytest.mark.parametrize(
    ("changes", "methods", "retuned", "new"),
    [
        ({}, {}, [], 0),
        ({"space": SPACE | {"lr": [0.001, 0.01, 0.1]}}, {}, TUNED, 3),
        ({"space": SPACE | {"lr": [0.001]}}, {}, TUNED, 0),
        ({"trials": 5}, {}, TUNED, 0),
        ({"trials": 6}, {}, [], 0),
        ({"seeds": 4}, {}, TUNED, 0),
        ({"examples": [50, 100]}, {}, TUNED, 0),
        ({"metric": "accuracy"}, {}, TUNED, 0),
        ({}, {"l2_xavier": {"space": {"l2": [0.001]}}}, ["few_shot/l2_xavier"], 0),
        ({}, {"l2_xavier": {"l2": 0.01}}, ["few_shot/l2_xavier"], 6),
        ({"schedule": {"lr": 0.1, "steps": 7}}, {}, [], 0),
        ({"schedule": {"batch": 7}}, {}, TUNED, 6),
    ],
)
def test_a_change_of_the_tuning_reruns_what_it_must_and_adds_trials(changes, methods, retuned, new):
    before, after = tuned(), tuned(methods=methods, **changes)
    differing = [name for name, version in versions(before).items() if versions(after)[name] != version]
    assert differing == retuned
    old, now = ({trial.version for trial in one.trials["few_shot", "l2_xavier"]} for one in (before, after))
    assert len(now - old) == new


def test_null_removes_a_key_of_a_space():
    space = {"lr": [0.1, 0.2], "classifier": ["random", "fitted"]}
    tuning = {"trials": 8, "examples": [50], "seeds": 1, "metric": "nll", "space": space}
    overlay = {"tuning": tuning | {"space": {"steps": None, "lr": [0.1]}}}
    overlay["methods"] = {"l2_xavier": {"space": space | {"classifier": None}}}
    made = plan({"experiments": {"few_shot": overlay}})
    trials = made.config.trials["few_shot"]["l2_xavier"]
    assert [trial.chosen for trial in trials] == [{"lr": 0.1}, {"lr": 0.2}]
