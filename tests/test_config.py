"""Configurations: what is refused and how it is said; what a plan's versions depend on."""

import copy
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dwp import config as configuration
from dwp.errors import InputError
from dwp.plan import Plan
from dwp.shards import shards

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
BASE = yaml.safe_load((ROOT / "config.yaml").read_text())
OVERLAYS = sorted((ROOT / "config").glob("*.yaml"))


def merged(base, overlay):
    """Merge as Snakemake does: mappings key by key, everything else replaced."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result


def plan(overlay=None, path=None):
    """Validate and plan the default configuration, with `overlay` put at a path like 'source.schedule'."""
    for key in reversed(path.split(".") if path else []):
        overlay = {key: overlay}
    config = merged(BASE, overlay or {})
    configuration.validate(config, SCHEMA)
    made = Plan(config)
    for version in made.artifacts:
        made.spec(version)
    return made


def network(*layers):
    return {"layers": list(layers), "batch_norm": False}


def conv(kernel, channels=4, **more):
    return {"conv": channels, "kernel": kernel, **more}


# Whole configurations


def test_the_default_configuration_plans():
    made = plan()
    assert made.sizes == [7, 5]
    assert set(made.config["experiments"]) == {
        "few_shot",
        "convergence",
        "random_features",
        "image_vae",
        "kl_importance",
        "kl_subset",
        "kl_profile",
    }


def test_there_are_overlays():
    assert {"paper-mnist.yaml", "smoke.yaml"} <= {path.name for path in OVERLAYS}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_plan(overlay):
    made = plan(yaml.safe_load(overlay.read_text()))
    for experiment in made.config["experiments"]:
        assert made.cells(experiment)
        assert len(made.cells(experiment)) == len(set(made.cells(experiment)))
    assert made.report_files()


def test_validation_does_not_change_the_configuration():
    config = copy.deepcopy(BASE)
    configuration.validate(config, SCHEMA)
    Plan(config)
    assert config == BASE


def test_null_removes_entries():
    few_shot = {"methods": {"dwp": None, "l2_dwp": None}}
    rest = {name: None for name in BASE["experiments"] if name != "few_shot"}
    priors = dict.fromkeys(("vae", "filters", "gaussian", "molchanov"))
    made = plan({"priors": priors, "experiments": {"few_shot": few_shot, **rest}})
    assert set(made.config["priors"]) == {"standard_normal", "log_uniform"}
    assert {experiment for experiment, _ in made.methods} == {"few_shot"}
    assert {method for _, method in made.methods} == {"log_uniform", "standard_normal", "l2_xavier"}
    assert made.priors == {}


# Refusals: (path, value, parts of the one line)

FEW_SHOT = "experiments.few_shot"
DWP = f"{FEW_SHOT}.methods.dwp"
KL = "experiments.kl_importance.methods.dwp"

FLOW = {"kind": "flow", "schedule": BASE["priors"]["vae"]["schedule"]}

BAD = [
    # Unknown keys
    ("divice", "cpu", ["divice: unknown key", "did you mean 'device'"]),
    ("source.schedule.step", 5, ["source.schedule.step: unknown key", "did you mean 'steps'"]),
    ("report.colour", "red", ["report.colour: unknown key", "dpi, font_size"]),
    ("priors.vae.hiden", 3, ["priors.vae.hiden: unknown key", "did you mean 'hidden'"]),
    ("priors.vae.sizes.7x7.latnet", 3, ["priors.vae.sizes.7x7.latnet: unknown key", "did you mean 'latent'"]),
    ("priors.filters.schedule", {}, ["priors.filters.schedule: unknown key"]),
    (f"{FEW_SHOT}.width", [1], [f"{FEW_SHOT}.width: unknown key"]),
    (f"{DWP}.nits", 1, [f"{DWP}.nits: unknown key", "did you mean 'init'"]),
    (f"{DWP}.init.form", "he", [f"{DWP}.init.form: unknown key", "did you mean 'from'"]),
    # Wrong types and impossible values
    ("source.nets", -3, ["source.nets: -3", "a whole number from 1"]),
    ("source.nets", 0, ["source.nets: 0"]),
    ("source.nets", 2.5, ["source.nets: 2.5"]),
    ("source.nets", True, ["source.nets: True"]),
    ("source.schedule.lr", "1e-3", ["source.schedule.lr: '1e-3'", "a number above 0"]),
    ("source.schedule.decay", "cosine", ["source.schedule.decay: 'cosine'", "linear or constant"]),
    ("source.schedule.epochs", 3, ["source.schedule", "steps or epochs, the other null"]),
    ("source.schedule.steps", None, ["source.schedule", "steps or epochs, the other null"]),
    ("device", "tpu", ["device: 'tpu'", "auto, cpu, cuda or mps"]),
    ("precision", "float16", ["precision: 'float16'", "auto, float32 or bfloat16"]),
    ("checkpoint_seconds", -1, ["checkpoint_seconds: -1"]),
    ("data.source", "imagenet", ["data.source: 'imagenet'", "glyphs"]),
    ("kernels.threshold", "mean", ["kernels.threshold: 'mean'", "otsu, valley or a number"]),
    ("kernels.threshold", {"7x5": 1}, ["kernels.threshold", "7x5"]),
    ("kernels.test_fraction", 1.0, ["kernels.test_fraction: 1.0"]),
    ("kernels.files", [], ["kernels.files: []", "null or a list of files"]),
    ("priors.vae.sizes.7x7.latent", 0, ["priors.vae.sizes.7x7.latent: 0", "a whole number from 1"]),
    ("priors.standard_normal.scale", 0, ["priors.standard_normal.scale: 0", "a number above 0"]),
    ("priors.log_uniform.approximation", "exact", ["priors.log_uniform.approximation: 'exact'", "kingma"]),
    ("priors.mine", {"scale": 2}, ["priors.mine.kind: missing"]),
    ("scores.kernels", 0, ["scores.kernels: 0", "a whole number from 1"]),
    ("scores.samples", [], ["scores.samples: []", "a list of whole numbers from 1"]),
    (f"{FEW_SHOT}.examples", [50, 50], [f"{FEW_SHOT}.examples: [50, 50]"]),
    (f"{FEW_SHOT}.every", -1, [f"{FEW_SHOT}.every: -1"]),
    (
        f"{DWP}.posterior",
        "gauss",
        [f"{DWP}.posterior: 'gauss'", "point, latent or none"],
    ),
    (f"{DWP}.init.draw", "median", [f"{DWP}.init.draw: 'median'", "mean or sample"]),
    (f"{DWP}.l2", -1, [f"{DWP}.l2: -1", "a number from 0"]),
    ("experiments.random_features.width", [0], ["experiments.random_features.width.0: 0"]),
    (
        "experiments.kl_profile.schedule",
        BASE["priors"]["vae"]["schedule"],
        ["kl_profile.schedule: unknown key"],
    ),
    ("experiments.kl_profile.scale", [-1], ["kl_profile.scale.0: -1"]),
    ("experiments.kl_profile.std", 0, ["kl_profile.std: 0", "a number above 0"]),
    (
        "experiments.kl_subset.kernel_subset",
        [0, 8],
        ["kl_subset.kernel_subset.0: 0", "a whole number from 1"],
    ),
    (
        "experiments.kl_subset.kernel_subset",
        8,
        ["kl_subset.kernel_subset: 8", "a list of numbers of kernels"],
    ),
    (f"{KL}.posterior", "point", [f"{KL}.posterior: 'point'", "additive or truncated_alpha"]),
    (f"{KL}.prior", "log_uniform", [f"{KL}.posterior: 'additive'", "kingma", "truncated_alpha"]),
    (f"{KL}.init.from", "pretrained", [f"{KL}.init.from: 'pretrained'", "xavier, he, or priors by name"]),
    ("experiments.kl_importance.methods.new", {"init": {"from": "he"}}, ["new.posterior: missing"]),
    ("experiments._kl", BASE["experiments"]["kl_subset"], ["'_kl' is not known", "kl_importance"]),
    ("source.network", network({"conv": 4}), ["source.network.layers.0", "{conv, kernel, pool} or {linear}"]),
    ("source.network", network(conv(7, konv=4)), ["source.network.layers.0.konv: unknown key"]),
    ("priors.vae.importance_samples", 5, ["priors.vae.importance_samples: unknown key"]),
    ("priors.vae.code_prior", "mixture", ["priors.vae.code_prior: 'mixture'", "standard_normal or vamp"]),
    ("priors.mine", {"kind": "gaussian", "schedule": {}}, ["priors.mine.schedule: unknown key"]),
    ("priors.mine", {"kind": "flow"}, ["priors.mine.schedule: missing"]),
    ("priors.mine", FLOW | {"transforms": 1}, ["priors.mine.transforms: 1", "a whole number from 2"]),
    ("priors.mine", FLOW | {"coupling": "cubic"}, ["priors.mine.coupling: 'cubic'", "affine or spline"]),
    # Names that do not exist
    ("priors.vae.kind", "vea", ["priors.vae", "'vea' is not known", "student_t, vae"]),
    ("experiments.few_shots", BASE["experiments"]["few_shot"], ["'few_shots' is not known", "few_shot"]),
    (f"{DWP}.prior", "vea", [DWP, "'vea' is not known", "vae, filters"]),
    (f"{DWP}.init.from", "glorot", [DWP, "'glorot' is not known", "xavier, he, pretrained"]),
    # What fits the schema but not together
    ("data_root", "/nowhere/at/all", ["data_root", "/nowhere/at/all"]),
    ("kernels.files", ["/nowhere/k.pt"], ["kernels.files: there is no file /nowhere/k.pt"]),
    ("kernels.threshold", {"7x7": 0.1}, ["5x5", "kernels.threshold names only 7x7"]),
    (
        f"{FEW_SHOT}.network",
        network(conv(3)),
        [f"{FEW_SHOT}.network has 3x3", "source.network only 7x7, 5x5"],
    ),
    ("priors.vae.sizes", {"5x5": None}, ["priors.vae.sizes.5x5"]),
    ("source.network", network(conv(7), conv(3)), ["has 5x5 kernels, but source.network only 7x7, 3x3"]),
    (
        f"{FEW_SHOT}.network",
        network(conv(7, pool=9), conv(5)),
        [f"{FEW_SHOT}.network.layers[1]: kernel 5 does not fit the 2×2 image", "digits"],
    ),
    (f"{DWP}.prior", "log_uniform", [f"{DWP}.posterior: 'additive'", "kingma", "truncated_alpha"]),
    (
        f"{FEW_SHOT}.methods.new",
        {"posterior": "additive", "init": {"from": "he"}},
        [f"{FEW_SHOT}.methods.new.prior: missing"],
    ),
    (f"{DWP}.l2", 0.1, [f"{DWP}.l2: 0.1 goes with posterior none", "'additive'"]),
    (f"{DWP}.posterior", "none", [f"{DWP}.prior: 'vae' needs a posterior", "additive, truncated_alpha"]),
    (
        f"{FEW_SHOT}.methods.new",
        {"posterior": "none", "laplace": True, "dropout": 0.1, "init": {"from": "he"}},
        [f"{FEW_SHOT}.methods.new.laplace: true does not go with dropout, here 0.1"],
    ),
    (
        "experiments.image_vae.methods.xavier.init.from",
        "pretrained",
        ["image_vae.methods.xavier.init.from", "'pretrained' is not allowed"],
    ),
    ("source.nets", 10**9, ["source: makes 100000000 jobs, expected at most 200000; raise source.shard"]),
    (f"{FEW_SHOT}.seeds", 10**12, [f"{FEW_SHOT}: makes", "at most 200000"]),
    ("source.a\nb", 1, ["source.a b: unknown key"]),
    ("data.options", {"glyphs": {"trian": 500}}, ["glyphs", "'trian'", "train, test"]),
    ("data.options", {"glyphs": {"train": -5}}, ["glyphs", "train", "-5"]),
]


@pytest.mark.parametrize(
    ("path", "value", "parts"), BAD, ids=[f"{path}={value}"[:60] for path, value, _ in BAD]
)
def test_bad_configurations_are_refused_in_one_line(path, value, parts):
    with pytest.raises(InputError) as refused:
        plan(value, path)
    message = str(refused.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


ONES = {name: {"network": network(conv(1))} for name in BASE["experiments"]}

LATE = {
    "options of an unknown data set": ("data.options", {"glyfs": {"train": 500}}, "glyfs"),
    "a size's schedule with steps and epochs": (
        "priors.vae.sizes.7x7.schedule",
        {"steps": 10, "epochs": 3},
        "priors.vae.sizes.7x7.schedule",
    ),
    "a VAE without its settings": (
        "priors.mine",
        {"kind": "vae", "schedule": BASE["priors"]["vae"]["schedule"]},
        "priors.mine",
    ),
    "a prior without a density": (f"{DWP}.prior", "filters", "filters"),
    "a prior that cannot be sampled": (f"{DWP}.init.from", "log_uniform", "log_uniform"),
    "a size that a VAE cannot have": (
        "",
        {
            "source": {"network": network(conv(1))},
            "priors": {"vae": {"sizes": {"1x1": {"hidden": 4, "latent": 2}}}},
            "experiments": ONES,
        },
        "kernel size 1",
    ),
    "a name that is a path": (
        f"{FEW_SHOT}.methods",
        {"a/b": {"posterior": "none", "init": {"from": "he"}}},
        "a/b",
    ),
    "no experiment": ("experiments", dict.fromkeys(BASE["experiments"]), "experiments"),
    "no method": (
        f"{FEW_SHOT}.methods",
        dict.fromkeys(BASE["experiments"]["few_shot"]["methods"]),
        "methods",
    ),
    "a rate that is no number": ("source.schedule.lr", float("nan"), "source.schedule.lr"),
    "an infinite penalty": ("source.l2", float("inf"), "source.l2"),
}


@pytest.mark.parametrize(("path", "value", "message"), LATE.values(), ids=LATE)
def test_what_would_fail_in_a_job_is_refused_before_the_first(path, value, message):
    with pytest.raises(InputError, match=message):
        plan(value, path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("priors.log_uniform.approximation", "molchanov"),
        (f"{FEW_SHOT}.methods.plain", {"posterior": "none", "init": {"from": "he"}}),
        (f"{FEW_SHOT}.methods.wide", {"posterior": "additive", "prior": "wide", "init": {"from": "wide"}}),
        ("kernels.threshold", {"7x7": "valley", "5x5": 0}),
        ("priors.vae.sizes.7x7.schedule", {"steps": None, "epochs": 3}),
    ],
)
def test_good_configurations_are_not_refused(path, value):
    overlay = {"priors": {"wide": {"kind": "standard_normal", "scale": 2.0}}}
    for key in reversed(path.split(".")):
        value = {key: value}
    plan(merged(overlay, value))


@pytest.mark.parametrize(
    ("prior", "drawn"),
    [
        ({"kind": "gaussian"}, True),
        ({"kind": "student_t", "sizes": {"7x7": {}, "5x5": {}}}, True),
        (FLOW, True),
        (FLOW | {"coupling": "spline", "transforms": 4, "sizes": {"7x7": {}, "5x5": {"hidden": 32}}}, True),
        (BASE["priors"]["vae"] | {"code_prior": "vamp", "pseudo_inputs": 20}, True),
        ({"kind": "ard"}, False),
    ],
    ids=["gaussian", "student_t", "flow", "spline flow", "vamp", "ard"],
)
def test_a_prior_of_every_kind_is_a_matter_of_configuration_alone(prior, drawn):
    start = {"from": "mine", "draw": "sample"} if drawn else {"from": "xavier"}
    method = {"posterior": "additive", "prior": "mine", "init": start}
    made = plan({"priors": {"mine": prior}, "experiments": {"few_shot": {"methods": {"mine": method}}}})
    inputs = set(made.methods["few_shot", "mine"].inputs)
    assert inputs == {"dataset", "outliers"} | ({"mine-7", "mine-5"} if drawn else set())


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
    "a new fitted prior": ("priors.gauss", {"kind": "gaussian"}, SCORES | {"report"}),
    "a new fitted prior of one size": (
        "priors.gauss",
        {"kind": "gaussian", "sizes": {"5x5": {}}},
        {"scores/5", "report"},
    ),
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
    configuration.validate(turned, SCHEMA)
    before, after = versions(plan()), versions(Plan(turned))
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
    priors = [made.prior_file(name, 7) for name in ("vae", "gaussian")]
    assert made.score_inputs(7) == {"kernels": made.kernels_file(7), "priors": priors}
    assert f"results/scores/{made.scores[7].version}/scores-7x7.csv" in made.files()


def test_without_a_density_there_are_no_scores():
    without = dict.fromkeys(("standard_normal", "vae", "gaussian"))
    made = plan({"priors": without, "experiments": ONLY_XAVIER})
    assert made.scores == {}
    assert "scores" not in made.report_inputs()
    assert not any("scores" in file for file in made.files())


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
    assert not made[0].trains_source
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
