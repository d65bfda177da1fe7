"""Configurations: refused values and their error messages."""

import pytest
from configurations import BASE, DWP, FEW_SHOT, conv, merged, network, plan
from conftest import ROOT

from dwp.errors import InputError

OVERLAYS = sorted([*(ROOT / "config").glob("*.yaml"), *(ROOT / "config" / "collection").glob("*.yaml")])


# Refusals: (path, value, parts of the one line)

KL = "experiments.kl_importance.methods.dwp"

FLOW = {"kind": "flow", "schedule": BASE["priors"]["vae"]["schedule"]}
FLOW_MATCHING = FLOW | {"kind": "flow_matching", "hidden": 32}

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
    ("data.source", "imagenet", ["data.source: unknown data set 'imagenet'", "glyphs", "train_images.npy"]),
    ("data.target", "digit", ["data.target: unknown data set 'digit'", "did you mean 'digits'?"]),
    ("data.target", "../digits", ["data.target: unknown data set '../digits'", "<data_root>/<name>"]),
    ("data.target", 5, ["data.target: 5", "data set that the experiments on images are run on"]),
    ("data.options", {"mine": {"train": 5}}, ["data.options: 'mine'", "a set of your own has no options"]),
    ("kernels.threshold", "mean", ["kernels.threshold: 'mean'", "otsu, valley, a number from 0"]),
    ("kernels.threshold", {"7x5": 1}, ["kernels.threshold", "7x5"]),
    ("kernels.test_fraction", 1.0, ["kernels.test_fraction: 1.0"]),
    ("kernels.files", [], ["kernels.files: []", "null or a list of texts (your own checkpoints"]),
    ("priors.vae.sizes.7x7.latent", 0, ["priors.vae.sizes.7x7.latent: 0", "a whole number from 1"]),
    ("priors.standard_normal.scale", 0, ["priors.standard_normal.scale: 0", "a number above 0"]),
    ("priors.log_uniform.approximation", "exact", ["priors.log_uniform.approximation: 'exact'", "kingma"]),
    ("priors.mine", {"scale": 2}, ["priors.mine.kind: missing"]),
    ("priors.he", {"kind": "ard"}, ["priors.he: this name has a meaning", "xavier, he, pretrained"]),
    ("scores.kernels", 0, ["scores.kernels: 0", "a whole number from 1"]),
    ("scores.samples", [], ["scores.samples: []", "a list of whole numbers from 1"]),
    (f"{FEW_SHOT}.examples", [50, 50], [f"{FEW_SHOT}.examples: [50, 50]"]),
    (f"{FEW_SHOT}.every", -1, [f"{FEW_SHOT}.every: -1"]),
    (
        f"{DWP}.posterior",
        "gauss",
        [f"{DWP}.posterior: 'gauss'", "latent, hmc or none"],
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
        ["kl_subset.kernel_subset: 8", "a list of whole numbers from 1"],
    ),
    (f"{KL}.posterior", "point", [f"{KL}.posterior: 'point'", "additive or truncated_alpha"]),
    (f"{KL}.prior", "log_uniform", [f"{KL}.posterior: 'additive'", "kingma", "truncated_alpha"]),
    (f"{KL}.init.from", "pretrained", [f"{KL}.init.from: 'pretrained'", "xavier, he, or priors by name"]),
    ("experiments.kl_importance.methods.new", {"init": {"from": "he"}}, ["new.posterior: missing"]),
    ("experiments._kl", BASE["experiments"]["kl_subset"], ["'_kl' is not known", "kl_importance"]),
    (
        "source.network",
        network({"conv": 4}),
        ["source.network.layers.0", "{conv, kernel, pool, padding} or {linear}"],
    ),
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
    # Values that fit the schema but not each other
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
        f"{FEW_SHOT}.methods.new",
        {"posterior": "none", "members": 50, "init": {"from": "pretrained"}},
        ["'pretrained' needs", "source networks, one for each start; source.nets is"],
    ),
    (f"{FEW_SHOT}.methods.l2_dwp.kl_weight", 0.5, ["l2_dwp.kl_weight: 0.5 needs a posterior"]),
    (
        f"{FEW_SHOT}.methods.new",
        {"posterior": "hmc", "prior": "log_uniform", "init": {"from": "he"}},
        ["'log_uniform' with posterior 'hmc': log_uniform has no density"],
    ),
    (
        f"{FEW_SHOT}.methods.new",
        {"posterior": "hmc", "prior": "vae", "kl_weight": 0, "init": {"from": "he"}},
        [f"{FEW_SHOT}.methods.new.kl_weight: 0 does not go with posterior hmc"],
    ),
    (
        f"{FEW_SHOT}.methods.new",
        {"posterior": "hmc", "prior": "vae", "init": {"from": "he"}, "override": {"dropout": 0.1}},
        ["override"],
    ),
    (
        f"{FEW_SHOT}.methods.l2_dwp.scales",
        "horseshoe",
        ["l2_dwp.scales: 'horseshoe' does not go with posterior 'none'"],
    ),
    (
        f"{FEW_SHOT}.methods.new",
        {"posterior": "hmc", "prior": "vae", "scales": "horseshoe", "init": {"from": "he"}},
        [f"{FEW_SHOT}.methods.new.scales: 'horseshoe' does not go with posterior 'hmc'"],
    ),
    (
        f"{FEW_SHOT}.methods.l2_dwp.log_variance",
        -3,
        ["log_variance: -3", "goes with posterior additive; here it is 'none'"],
    ),
    (f"{DWP}.objective", "acceptance", ["needs a prior with an exact density, unlike 'vae' (vae)"]),
    (
        f"{FEW_SHOT}.methods.l2_dwp.objective",
        "acceptance",
        ["objective: 'acceptance' needs posterior additive or truncated_alpha; here it is 'none'"],
    ),
    (
        f"{FEW_SHOT}.methods.standard_normal",
        {"objective": "acceptance", "kl_weight": 0},
        ["kl_weight: 0 does not go with objective 'acceptance'"],
    ),
    (
        f"{FEW_SHOT}.methods.standard_normal",
        {"objective": "acceptance", "scales": "horseshoe"},
        ["scales: 'horseshoe' does not go with objective 'acceptance'"],
    ),
    (
        f"{FEW_SHOT}",
        {
            "network": {"dropout": 0.1},
            "methods": {"standard_normal": {"objective": "acceptance"}},
        },
        ["objective: 'acceptance' does not go with dropout; set experiments.few_shot"],
    ),
    (f"{DWP}.frozen", True, [f"{DWP}.frozen: true goes with posterior none", "'additive'"]),
    (f"{FEW_SHOT}.methods.l2_dwp.frozen", True, ["frozen: true needs classifier fitted", "'random'"]),
    (
        f"{FEW_SHOT}.methods.l2_xavier.init.control",
        "noise",
        ["'xavier' does not go with init.control 'noise'"],
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
    "own",
    [{"posterior": "hmc"}, {"posterior": "additive", "objective": "acceptance"}],
    ids=["hmc", "acceptance"],
)
def test_a_method_without_dropout_in_a_network_with_it(own):
    method = {"prior": "standard_normal", "dropout": 0, "init": {"from": "he"}, **own}
    few_shot = {"network": {"dropout": 0.1}, "methods": {"mine": method}}
    assert plan({"experiments": {"few_shot": few_shot}}).methods["few_shot", "mine"]


@pytest.mark.parametrize(
    ("prior", "drawn"),
    [
        ({"kind": "gaussian"}, True),
        ({"kind": "student_t", "sizes": {"7x7": {}, "5x5": {}}}, True),
        ({"kind": "mixture", "components": 16, "sizes": {"7x7": {"shrinkage": 4}, "5x5": {}}}, True),
        (FLOW, True),
        (FLOW | {"coupling": "spline", "transforms": 4, "sizes": {"7x7": {}, "5x5": {"hidden": 32}}}, True),
        (BASE["priors"]["vae"] | {"code_prior": "vamp", "pseudo_inputs": 20}, True),
        ({"kind": "gaussian_mixture", "sizes": {"7x7": {"components": 8}, "5x5": {}}}, True),
        (FLOW_MATCHING, True),
        (FLOW_MATCHING | {"kind": "arbitrary_conditioning_vae", "latent": 3}, True),
        ({"kind": "structured_gaussian", "inputs": 32}, False),
        ({"kind": "ard"}, False),
    ],
    ids=[
        *("gaussian", "student_t", "mixture", "flow", "spline flow", "vamp", "gaussian_mixture"),
        *("flow_matching", "arbitrary_conditioning_vae", "structured_gaussian", "ard"),
    ],
)
def test_a_prior_of_every_kind_is_a_matter_of_configuration_alone(prior, drawn):
    start = {"from": "mine", "draw": "sample"} if drawn else {"from": "xavier"}
    method = {"posterior": "additive", "prior": "mine", "init": start}
    made = plan({"priors": {"mine": prior}, "experiments": {"few_shot": {"methods": {"mine": method}}}})
    inputs = set(made.methods["few_shot", "mine"].inputs)
    kind = prior["kind"]
    assert inputs == {"dataset", "outliers"} | ({f"{kind}-7", f"{kind}-5"} if drawn else set())
