"""Plans: dependencies of versions, user files, shards."""

import gzip
import struct

import numpy as np
import pytest
from configurations import BASE, DWP, FEW_SHOT, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from dwp.errors import InputError
from dwp.pipeline.config.model import read
from dwp.pipeline.plan import Plan
from dwp.pipeline.shards import shards

# Versions


def versions(made):
    found = {f"data/{name}": artifact.version for name, artifact in made._datasets.items()}
    found |= {f"kernels/{size}": artifact.version for size, artifact in made.kernels.items()}
    for name, sizes in made.priors.items():
        found |= {f"priors/{name}/{size}": artifact.version for size, artifact in sizes.items()}
    found |= {f"scores/{size}": artifact.version for size, artifact in made.scores.items()}
    found |= {"/".join(key): artifact.version for key, artifact in made.methods.items()}
    return found | {"source": made.source.version, "report": made.report.version}


VAE7, VAE5 = {"priors/vae/7"}, {"priors/vae/5"}
FILTERS = {"priors/filters/7", "priors/filters/5"}
GAUSSIAN = {"priors/gaussian/7", "priors/gaussian/5"}
USE_VAE = {f"{name}/dwp" for name in BASE["experiments"]} | {"few_shot/l2_dwp", "kl_importance/dwp_samples"}
USE_FILTERS = {f"{name}/filters" for name in ("convergence", "random_features", "image_vae")} | {
    f"{name}/{method}"
    for name in ("kl_importance", "kl_subset", "kl_profile")
    for method in BASE["experiments"][name]["methods"]
    if method != "dwp_samples"
}
SCORES = {"scores/7", "scores/5"}
FITTED = VAE7 | VAE5 | FILTERS | GAUSSIAN | SCORES | USE_VAE | USE_FILTERS
KERNELS = {"kernels/7", "kernels/5"}
METHODS = {f"{name}/{method}" for name, own in BASE["experiments"].items() for method in own["methods"]}
FEW = {name for name in METHODS if name.startswith("few_shot")}
NEW = {"posterior": "none", "init": {"from": "he"}}
XAVIER = {"from": "xavier"}

ONLY_XAVIER = {
    name: {"methods": dict.fromkeys(own["methods"]) | {"xavier": own["methods"]["xavier"]}}
    if "xavier" in own["methods"]
    else None
    for name, own in BASE["experiments"].items()
}

CHANGES = {
    "threads": ("threads", 2, set()),
    "device": ("device", "cpu", set()),
    "seconds between checkpoints": ("checkpoint_seconds", 5, set()),
    "options given as they are by default": ("data.options", {"glyphs": {"seed": 0}}, set()),
    "figures": ("report.dpi", 300, {"report"}),
    "the title of a method": (f"{DWP}.title", "Our prior", {"report"}),
    "more seeds": (f"{FEW_SHOT}.seeds", 7, {"report"}),
    "larger shards": (f"{FEW_SHOT}.shard", 2, {"report"}),
    "larger shards of nets": ("source.shard", 50, {"report"}),
    "more examples": (f"{FEW_SHOT}.examples", [50, 100, 200, 500], {"report"}),
    "another width": ("experiments.random_features.width", [0.25, 2], {"report"}),
    "a new method": (f"{FEW_SHOT}.methods.he", NEW, {"report"}),
    "more nets": ("source.nets", 120, KERNELS | FITTED | {"report"}),
    "the penalty of nets": ("source.l2", 0.1, {"source"} | KERNELS | FITTED | {"report"}),
    "the source": (
        "data.options",
        {"glyphs": {"seed": 9}},
        {"data/glyphs", "source"} | KERNELS | FITTED | FEW | {"report"},
    ),
    "the target": ("data.options", {"digits": {"test": 300}}, {"data/digits"} | METHODS | {"report"}),
    "a threshold": (
        "kernels.threshold",
        {"7x7": 0.3, "5x5": "otsu"},
        {"kernels/7", "priors/filters/7", "priors/gaussian/7", "scores/7"}
        | VAE7
        | USE_VAE
        | USE_FILTERS
        | {"report"},
    ),
    "a VAE of one size": ("priors.vae.sizes.7x7.latent", 3, VAE7 | {"scores/7", "report"} | USE_VAE),
    "the schedule of one size": (
        "priors.vae.sizes.5x5.schedule",
        {"steps": 9},
        VAE5 | {"scores/5", "report"} | USE_VAE,
    ),
    "a VAE": ("priors.vae.code_prior", "vamp", VAE7 | VAE5 | SCORES | USE_VAE | {"report"}),
    "samples of a bound": (f"{FEW_SHOT}.importance_samples", 5, FEW | {"report"}),
    "an analytic prior": (
        "priors.standard_normal.scale",
        2.0,
        {f"{name}/standard_normal" for name in ("few_shot", "kl_importance", "kl_subset", "kl_profile")}
        | SCORES
        | {"report"},
    ),
    "a prior without a density": (
        "priors.log_uniform.approximation",
        "molchanov",
        {"few_shot/log_uniform", "kl_profile/log_uniform", "report"},
    ),
    "a new fitted prior": ("priors.heavy", {"kind": "student_t"}, SCORES | {"report"}),
    "a new fitted prior of one size": (
        "priors.heavy",
        {"kind": "student_t", "sizes": {"5x5": {}}},
        {"scores/5", "report"},
    ),
    "another name for a prior that exists": ("priors.gauss", {"kind": "gaussian"}, {"report"}),
    "a new prior without a density": ("priors.ard", {"kind": "ard"}, set()),
    "how many kernels are scored": ("scores.kernels", 500, SCORES | {"report"}),
    "settings of an experiment that trains nothing": (
        "experiments.kl_profile.scale",
        [0, 1],
        {name for name in METHODS if name.startswith("kl_profile")} | {"report"},
    ),
    "noise of one of them": (
        "experiments.kl_subset.std",
        0.1,
        {name for name in METHODS if name.startswith("kl_subset")} | {"report"},
    ),
    "a method": (f"{DWP}.init.draw", "sample", {"few_shot/dwp", "report"}),
    "an experiment": (f"{FEW_SHOT}.ensemble", 3, FEW | {"report"}),
    "precision": ("precision", "float32", {"source"} | KERNELS | FITTED | METHODS | {"report"}),
}


@pytest.mark.parametrize(("path", "value", "changed"), CHANGES.values(), ids=CHANGES)
def test_a_change_makes_new_versions_of_what_it_changes_and_no_other(path, value, changed):
    before, after = versions(plan()), versions(plan(value, path))
    assert before.keys() <= after.keys()
    assert {name for name in before if before[name] != after[name]} == changed


def test_versions_do_not_depend_on_the_order_of_keys():
    def backwards(value):
        if isinstance(value, dict):
            return {key: backwards(inner) for key, inner in reversed(value.items())}
        return value

    turned = backwards(BASE)
    before, after = versions(plan()), versions(Plan(read(turned)))
    assert {name for name in before if before[name] != after[name]} <= {"report"}


def test_no_two_artifacts_share_a_version():
    made = plan()
    assert len(set(versions(made).values())) == len(versions(made)) == len(made.artifacts)
    with pytest.raises(InputError, match="version 00000000 is none of this configuration"):
        made.spec("00000000")


def test_files_lie_under_their_versions():
    made = plan()
    (cell,) = [cell for cell in made.cells("few_shot") if "/dwp_examples-100_" in cell]
    assert (
        cell
        == f"results/few_shot/{made.methods['few_shot', 'dwp'].version}/dwp_examples-100_seeds-000-004.csv"
    )
    assert made.source_files()[-1] == f"results/source/{made.source.version}/nets-090-099.safetensors"
    together = made.methods["kl_subset", "dwp"]
    assert made.cells("kl_subset")[0] == together.path("dwp_settings-all_seeds-000-019.csv")
    assert together.params["settings"]["kernel_subset"] == BASE["experiments"]["kl_subset"]["kernel_subset"]
    inputs = made.cell_inputs(made.methods["few_shot", "dwp"].version, "000-001")
    assert inputs == {
        "dataset": made.dataset_file("digits"),
        "outliers": made.dataset_file("glyphs"),
        "priors": [made.prior_file("vae", 7), made.prior_file("vae", 5)],
    }
    assert made.cell_inputs(made.methods["few_shot", "log_uniform"].version, "000-001")["priors"] == []
    priors = [made.prior_file(name, 7) for name in ("vae", "filters", "gaussian")]
    assert made.score_inputs(7) == {"kernels": made.kernels_file(7), "priors": priors}
    for suffix in ("csv", "samples.csv", "manifest.json"):
        assert f"results/scores/{made.scores[7].version}/scores-7x7.{suffix}" in made.files()


def test_without_a_density_there_are_no_scores():
    without = dict.fromkeys(("standard_normal", "vae", "gaussian"))
    made = plan({"priors": without, "experiments": ONLY_XAVIER})
    assert made.scores == {}
    assert "scores" not in made.report_inputs()
    assert made.report.params["uses"] == {}
    assert not any("scores" in file for file in made.files())


def test_the_report_has_titles_learned_priors_and_how_single_ones_are_used():
    methods = {
        "noise": {"init": {"from": "vae", "control": "noise"}},
        "by_size": {"init": {"from": {"7x7": "he", "5x5": "filters"}}},
        "mixed": {"posterior": "additive", "prior": {"7x7": "vae", "5x5": "standard_normal"}, "init": XAVIER},
        "titled": {"title": "A title", "init": XAVIER},
        "frozen": {"frozen": True, "classifier": "fitted", "init": {"from": "filters"}},
        "from_source": {"posterior": "additive", "prior": "vae", "init": {"from": "pretrained"}},
        "uniform": {"posterior": "hmc", "prior": "uniform", "init": {"from": "uniform"}},
    }
    control = {"uniform": {"kind": "mixture", "directions": "uniform"}}
    overlay = {"priors": control, "experiments": {"few_shot": {"methods": methods}}}
    made = plan(overlay)
    params = made.report.params
    assert params["learned"]["few_shot"] == [*("dwp", "l2_dwp", "by_size", "mixed", "frozen", "from_source")]
    assert params["titles"]["few_shot"]["titled"] == "A title"
    assert "mixed" not in params["titles"]["few_shot"]
    assert params["uses"] == {
        "dwp": ["vae", "prior, additive", [7, 5]],
        "log_uniform": ["log_uniform", "prior, truncated_alpha", [7, 5]],
        "standard_normal": ["standard_normal", "prior, additive", [7, 5]],
        "l2_dwp": ["vae", "initialisation", [7, 5]],
        "frozen": ["filters", "initialisation, frozen", [7, 5]],
        "uniform": ["uniform", "prior, hmc", [7, 5]],
    }
    scored = ["vae", "filters", "gaussian", "standard_normal", "uniform"]
    names = [name for name in made.config.priors if name in (*scored, "log_uniform")]
    assert [name for name, _ in params["kinds"]] == names
    assert dict(params["kinds"])["uniform"] == "mixture"
    # As the job gets them, in the order of the configuration
    roles = made.report.spec["params"]["roles"]["scores"]["7"]
    assert [name for name, _ in roles] == [name for name in names if name != "log_uniform"]
    shown = {item.path for item in made.report_files()}
    assert {"figures/prior_comparison.png", "tables/prior_comparison.csv"} <= shown


def test_the_priors_are_compared_by_the_experiment_of_the_findings():
    made = plan(None, "experiments.few_shot")
    assert made.report.params["uses"] == {
        "filters": ["filters", "initialisation", [7, 5]],
        "dwp": ["vae", "initialisation", [7, 5]],
    }


def test_a_tuned_method_uses_one_prior_if_it_tries_no_other():
    normal = {"posterior": "additive", "init": XAVIER}
    methods = {
        "rate": {**normal, "prior": "standard_normal", "space": {"lr": [0.001, 0.01]}},
        "scale": {**normal, "space": {"prior": ["standard_normal", "narrow"]}},
    }
    few_shot = {"methods": methods, "tuning": {"trials": 2, "examples": [50], "seeds": 1, "metric": "nll"}}
    narrow = {"kind": "standard_normal", "scale": 0.1}
    made = plan({"priors": {"narrow": narrow}, "experiments": {"few_shot": few_shot}})
    uses = made.report.params["uses"]
    assert uses["rate"] == ["standard_normal", "prior, additive", [7, 5]]
    assert "scale" not in uses


def test_outliers_are_shown_where_they_are_asked_for():
    for value in (True, False):
        shown = {item.path for item in plan(value, f"{FEW_SHOT}.outliers").report_files()}
        assert ("figures/few_shot_outliers.png" in shown) == value
        assert "figures/few_shot_reliability.png" in shown


# Files of the user


def write_mnist(root, value=0):
    """Write a small MNIST in the layout of its four files; `value` is one of its pixels."""
    folder = root / "mnist"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        pixels = np.full((300, 28, 28), 7, np.uint8)
        pixels[3, 4, 5] = value
        images = struct.pack(">4i", 0x803, 300, 28, 28) + pixels.tobytes()
        labels = struct.pack(">2i", 0x801, 300) + bytes(range(10)) * 30
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
    return str(root)


def test_local_data_count_by_content_and_not_by_place(tmp_path):
    roots = [write_mnist(tmp_path / name, value) for name, value in (("a", 0), ("b", 0), ("c", 1))]
    one, same, other = (versions(plan({"data_root": root, "data": {"target": "mnist"}})) for root in roots)
    assert one == same
    assert {name for name in one if one[name] != other[name]} == {"data/mnist", "report"} | METHODS
    embedded = versions(plan({"data_root": roots[0]}))
    assert embedded == versions(plan())


def test_kernels_of_ones_own_count_by_content(tmp_path):
    array = np.random.default_rng(0).normal(size=(9, 7, 7))
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "c.npy", array + 1)
    made = [plan([str(tmp_path / f"{name}.npy")], "kernels.files") for name in "abc"]
    one, same, other = ({size: artifact.version for size, artifact in p.kernels.items()} for p in made)
    assert one == same
    assert all(one[size] != other[size] for size in one)
    assert not made[0].config.trains_source
    assert made[0].source_files() == []
    assert made[0].source.version not in made[0].artifacts
    assert made[0].kernels_from() == [str(tmp_path / "a.npy")]


# Shards


@settings(deadline=None)
@given(st.integers(1, 1500), st.integers(1, 200), st.integers(0, 300))
def test_shards_cover_everything_once_and_stay_when_more_are_wanted(count, size, more):
    names = list(shards(count, size))
    covered = [range(int(first), int(last) + 1) for first, last in (name.split("-") for name in names)]
    assert [number for part in covered for number in part] == list(range(count))
    assert all(len(part) == size for part in covered[:-1])
    assert len(covered[-1]) <= size
    assert names[:-1] == list(shards(count + more, size))[: len(names) - 1]
