"""Experiments: every module with every kind of method, on a data set of a few images."""

import copy

import pytest
import torch
from network_samples import described

from dwp.bayes import layers
from dwp.bayes.layers import BayesConv2d, bayesian_layers
from dwp.data import Dataset, few_shot
from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments.base import COLUMNS, Task
from dwp.initialisation import build_initialised
from dwp.priors.base import find
from dwp.priors.empirical import Empirical
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE
from dwp.training.checkpoints import Checkpoint

NETWORK = {
    "layers": [{"conv": 4, "kernel": 7, "pool": 2}, {"conv": 4, "kernel": 5, "pool": 2}],
    "batch_norm": False,
}
SCHEDULE = {"steps": 4, "epochs": None, "batch": None, "lr": 0.01, "decay": "linear", "precision": "float32"}
SETTINGS = {
    "few_shot": {
        "network": NETWORK,
        "schedule": SCHEDULE,
        "every": 2,
        "ensemble": 3,
        "kernel_subset": 5,
        "posterior_samples": 2,
        "importance_samples": 3,
        "train_reverse_model": False,
        "outliers": True,
    },
    "convergence": {"network": NETWORK, "schedule": SCHEDULE | {"batch": 8}, "every": 2, "examples": None},
    "random_features": {
        "network": NETWORK | {"batch_norm": True},
        "schedule": SCHEDULE | {"batch": 8},
        "every": 2,
        "examples": 12,
    },
    "image_vae": {
        "network": NETWORK,
        "schedule": SCHEDULE | {"batch": 8},
        "every": 2,
        "examples": None,
        "latent": 3,
    },
}
XAVIER, HE = {"from": "xavier"}, {"from": "he"}
INITS = {
    "xavier": XAVIER,
    "he": HE,
    "filters": {"from": "filters", "draw": "sample"},
    "dwp": {"from": "vae", "draw": "sample"},
    "dwp_mean": {"from": "vae", "draw": "mean"},
}
METHODS = {
    "few_shot": {
        "dwp": {"posterior": "additive", "prior": "vae", "init": {"from": "vae", "draw": "mean"}},
        "standard_normal": {"posterior": "additive", "prior": "standard_normal", "init": XAVIER},
        "log_uniform": {"posterior": "truncated_alpha", "prior": "log_uniform", "init": HE},
        "l2": {"posterior": "none", "l2": 0.1, "init": {"from": "vae", "draw": "sample"}},
        "plain": {"posterior": "none", "init": {"from": "filters"}},
        "map": {"posterior": "point", "prior": "vae", "init": {"from": "vae", "draw": "mean"}},
        "dwr": {"posterior": "latent", "prior": "vae", "init": {"from": "vae", "draw": "mean"}},
        "mixed": {
            "posterior": "additive",
            "prior": {"conv1": "vae", "5x5": "standard_normal"},
            "init": {"from": {"7x7": "vae", "5x5": "he"}},
        },
        "dropout": {"posterior": "none", "dropout": 0.5, "init": XAVIER},
        "l2_xavier": {"posterior": "none", "init": XAVIER},
        "ensemble": {"posterior": "none", "members": 3, "init": XAVIER},
        "laplace": {"posterior": "none", "laplace": True, "init": XAVIER},
        "pretrained": {"posterior": "none", "init": {"from": "pretrained"}},
    },
    "convergence": {name: {"init": init} for name, init in INITS.items()},
    "random_features": {name: {"init": init} for name, init in INITS.items()},
    "image_vae": {name: {"init": init} for name, init in INITS.items()},
}
# Priors that a few-shot network can have beside those above.
OTHERS = {
    "vae/vamp": {"hidden": 3, "latent": 2, "code_prior": "vamp", "pseudo_inputs": 4},
    "flow": {"hidden": 4, "transforms": 2, "coupling": "affine"},
    "gaussian": {},
    "student_t": {},
    "ard": {},
    "log_uniform/molchanov": {"approximation": "molchanov"},
}
METHODS["few_shot"] |= {
    kind: {"posterior": "additive", "prior": kind, "init": {"from": "xavier"}} for kind in OTHERS
}
ALL = [(experiment, method) for experiment, methods in METHODS.items() for method in methods]
METRICS = {
    "bayesian": {"accuracy", "nll", "brier", "ece", "mean_accuracy", "train_nll", "kl"},
    "few_shot": {"accuracy", "nll", "brier", "ece", "mean_accuracy", "train_nll"},
    "once": {"auroc_entropy", "auroc_mutual_information", "train_flops", "predict_flops"},
    "convergence": {"accuracy", "nll", "train_nll"},
    "random_features": {"accuracy", "nll", "train_nll"},
    "image_vae": {"lower_bound", "reconstruction", "code_kl", "train_lower_bound"},
}


@pytest.fixture(scope="module")
def dataset():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=generator) for n in (30, 16)]
    return Dataset("noise", images[0], torch.arange(30) % 3, images[1], torch.arange(16) % 3)


def make_priors():
    torch.manual_seed(0)
    kinds = ("vae", "filters", "standard_normal", "log_uniform", *OTHERS)
    made = {kind: {} for kind in kinds}
    for k in (7, 5):
        for kind, settings in OTHERS.items():
            made[kind][k] = find(kind.partition("/")[0])(k, **settings).requires_grad_(False)
        made["vae"][k] = VAE(k, hidden=3, latent=2).requires_grad_(False)
        made["filters"][k] = Empirical.fit(torch.randn(20, 1, k, k), torch.randn(2, 1, k, k), {})[0]
        made["standard_normal"][k] = StandardNormal(k)
        made["log_uniform"][k] = LogUniform(k)
    return made


@pytest.fixture(scope="module")
def pretrained():
    """State dicts of source networks, by seed."""
    return {
        seed: build_initialised(described(**NETWORK), (1, 28, 28), 7, 10 + seed).state_dict()
        for seed in range(5)
    }


@pytest.fixture
def run(dataset, pretrained):
    """Run a method of an experiment with some seeds, its priors fresh unless given; return its rows."""

    def run(experiment, method, seeds, setting=None, checkpoint=None, priors=None, **settings):
        setting = setting or (9 if experiment == "few_shot" else 0.5)
        task = Task(
            setting=setting,
            seed=0,
            settings=SETTINGS[experiment] | settings,
            method=METHODS[experiment][method],
            dataset=dataset,
            priors=priors or make_priors(),
            device=torch.device("cpu"),
            outliers=dataset,
            pretrained=pretrained if METHODS[experiment][method]["init"]["from"] == "pretrained" else {},
            checkpoint=checkpoint,
        )
        return experiments.run(experiment, method, task, seeds)

    return run


@pytest.fixture
def fitted(monkeypatch):
    """The models that `fit` was given, each with a copy of what it was before; filled as experiments run."""
    models = []
    fit = experiments.fit

    def record(model, *arguments, **options):
        before = copy.deepcopy(model.state_dict())
        rows = fit(model, *arguments, **options)
        models.append((model, before, arguments))
        return rows

    monkeypatch.setattr(experiments, "fit", record)
    return models


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(("experiment", "method"), ALL)
def test_rows_are_tidy_and_repeat(run, experiment, method):
    rows = run(experiment, method, [2, 3])
    assert {tuple(row) for row in rows} == {COLUMNS}
    setting = 9 if experiment == "few_shot" else 0.5
    assert {(row["experiment"], row["method"], row["setting"]) for row in rows} == {
        (experiment, method, setting)
    }
    assert list(dict.fromkeys(row["seed"] for row in rows)) == [2, 3]
    expected = METRICS[experiment]
    if METHODS[experiment][method].get("posterior", "none") != "none":
        expected = METRICS["bayesian"]
    for seed in (2, 3):
        found = [(row["step"], row["metric"]) for row in rows if row["seed"] == seed]
        assert len(found) == len(set(found))
        curves = {key for key in found if "/" not in key[1] and key[1] not in METRICS["once"]}
        at_zero = expected - {"train_nll", "train_lower_bound", "kl"}
        assert curves == {(0, m) for m in at_zero} | {(step, m) for step in (2, 4) for m in expected}
        once = {key for key in found if key[1] in METRICS["once"]}
        assert once == ({(4, m) for m in METRICS["once"]} if experiment == "few_shot" else set())
    values = [(row["value"], row["metric"]) for row in rows]
    assert all(isinstance(value, float) for value, _ in values)
    assert all(0 <= value <= 1 for value, metric in values if metric in ("accuracy", "ece", "mean_accuracy"))
    torch.manual_seed(77)
    assert run(experiment, method, [2, 3]) == rows


@pytest.mark.parametrize(("experiment", "method"), ALL)
def test_a_seed_does_not_depend_on_the_others(run, experiment, method):
    rows = run(experiment, method, [0, 1])
    assert run(experiment, method, [1]) == [row for row in rows if row["seed"] == 1]
    values = [[row["value"] for row in rows if row["seed"] == seed] for seed in (0, 1)]
    assert values[0] != values[1]


def test_a_seed_that_trains_the_reverse_model_does_not_change_it_for_the_next(run):
    rows = run("few_shot", "dwp", [0, 1], train_reverse_model=True)
    assert run("few_shot", "dwp", [1], train_reverse_model=True) == [row for row in rows if row["seed"] == 1]


@pytest.mark.parametrize("train_reverse_model", [False, True])
@pytest.mark.parametrize(("experiment", "method"), ALL)
def test_priors_are_left_as_they_were(run, experiment, method, train_reverse_model):
    def facts():
        for prior in (prior for sizes in priors.values() for prior in sizes.values()):
            for tensor in prior.state_dict(keep_vars=True).values():
                yield tensor.requires_grad, tensor.stride(), tensor.tolist()

    priors = make_priors()
    before = list(facts())
    settings = {"train_reverse_model": train_reverse_model} if experiment == "few_shot" else {}
    run(experiment, method, [0], priors=priors, **settings)
    assert list(facts()) == before


@pytest.mark.parametrize("train_reverse_model", [False, True])
def test_which_parts_of_the_vae_are_trained(run, fitted, train_reverse_model):
    run("few_shot", "dwp", [0], train_reverse_model=train_reverse_model)
    ((models, before, _),) = fitted
    moved = {name.removeprefix("0.") for name in changed(models, before)}
    # Beside the network, the reverse models of 7×7 and 5×5 kernels, in what is trained and checkpointed.
    assert any(name.startswith("1.") for name in moved) == train_reverse_model
    assert any(name.startswith("2.") for name in moved) == train_reverse_model
    for held, given in zip(layers.priors(models[0]), make_priors()["vae"].values(), strict=True):
        parts = {name.partition(".")[0] for name in changed(held, given.state_dict())}
        assert parts == ({"encoder"} if train_reverse_model else set())
    for layer in ("conv1", "conv2"):
        assert {f"{layer}.posterior.mean", f"{layer}.posterior.log_variance", f"{layer}.bias"} <= moved


@pytest.mark.parametrize("method", METHODS["random_features"])
def test_frozen_convolutions_stay(run, fitted, method):
    run("random_features", method, [0])
    ((model, before, _),) = fitted
    moved = changed(model, before)
    assert not any(name.startswith("conv") for name in moved)
    assert {"classifier.weight", "classifier.bias", "norm1.weight", "norm2.bias"} <= moved


@pytest.mark.parametrize("experiment", ["convergence", "image_vae"])
def test_other_convolutions_do_not_stay(run, fitted, experiment):
    run(experiment, "xavier", [0])
    ((model, before, _),) = fitted
    assert changed(model, before) == set(before)


def test_the_width_is_the_setting(run, fitted):
    for width in (0.25, 1):
        run("convergence", "xavier", [0], setting=width)
        run("image_vae", "xavier", [0], setting=width)
    networks = [getattr(model, "encoder", model) for model, _, _ in fitted]
    assert [network.conv1.out_channels for network in networks] == [1, 1, 4, 4]


@pytest.mark.parametrize("method", ["filters", "dwp"])
def test_an_image_vae_starts_from_draws_of_its_init_on_both_sides(run, fitted, method):
    run("image_vae", method, [0], setting=1)
    ((model, before, _),) = fitted
    learned = {k: prior.kernels for k, prior in make_priors()["filters"].items()}
    turned = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ConvTranspose2d)]
    assert len(turned) == 2
    for name in ("encoder.conv1", "encoder.conv2", *turned):
        drawn = before[f"{name}.weight"].flatten(0, 1)[:, None]
        known = [any(torch.equal(kernel, one) for one in learned[drawn.shape[-1]]) for kernel in drawn]
        assert all(known) == (method == "filters"), name


def test_methods_of_one_seed_see_the_same_examples_and_start_from_the_same_classifier(run, fitted, dataset):
    for method in METHODS["few_shot"]:
        run("few_shot", method, [4])
    images = dataset.images("train")[few_shot(dataset.labels("train"), 9, 4)]
    for models, before, (_, data, _) in fitted:
        assert torch.equal(data[0], images)
        assert torch.equal(before["0.classifier.weight"], fitted[0][1]["0.classifier.weight"])
        assert len(bayesian_layers(models)) in (0, 2)


def test_members_of_an_ensemble_start_apart_and_train_as_if_alone(run, fitted):
    run("few_shot", "ensemble", [4])
    run("few_shot", "l2_xavier", [4])
    (three, before, _), (one, _, _) = fitted
    assert len(three) == 3
    for layer in ("conv1", "classifier"):
        starts = [before[f"{member}.{layer}.weight"] for member in range(3)]
        assert not torch.equal(starts[0], starts[1])
        assert not torch.equal(starts[1], starts[2])
    torch.testing.assert_close(three[0].state_dict(), one[0].state_dict(), rtol=1e-4, atol=1e-5)


def test_a_pretrained_start_is_the_source_network_of_that_seed(run, fitted, pretrained):
    run("few_shot", "pretrained", [0, 3])
    for seed, (_, before, _) in zip((0, 3), fitted, strict=True):
        assert torch.equal(before["0.conv2.weight"], pretrained[seed]["conv2.weight"])


def test_layers_have_the_priors_chosen_for_them(run, fitted):
    run("few_shot", "mixed", [0])
    first, second = bayesian_layers(fitted[0][0])
    assert isinstance(first.posterior.prior, VAE)
    assert isinstance(second.posterior.prior, StandardNormal)


def test_uncertainty_does_not_tell_a_data_set_from_itself(run):
    for row in run("few_shot", "standard_normal", [0]):
        if row["metric"].startswith("auroc"):
            assert row["value"] == pytest.approx(0.5)


def test_costs_grow_as_the_work_does(run):
    def costs(method, **settings):
        rows = run("few_shot", method, [0], **settings)
        return [row["value"] for row in rows if row["metric"] in ("train_flops", "predict_flops")]

    one, three = costs("l2_xavier"), costs("ensemble")
    assert three == pytest.approx([3 * cost for cost in one])
    assert costs("l2_xavier", schedule=SCHEDULE | {"steps": 8})[0] == pytest.approx(2 * one[0])
    few, many = costs("dwp"), costs("dwp", ensemble=9)
    assert many[1] == pytest.approx(3 * few[1], rel=0.01)


def test_a_bayesian_method_starts_from_its_init(run, fitted):
    run("few_shot", "dwp", [0])
    run("few_shot", "standard_normal", [0])
    run("convergence", "dwp_mean", [0], setting=1)
    run("convergence", "xavier", [0], setting=1)
    starts = [before for _, before, _ in fitted]
    for bayesian, ordinary in ((0, 2), (1, 3)):
        assert torch.equal(starts[bayesian]["0.conv1.posterior.mean"], starts[ordinary]["conv1.weight"])
    assert isinstance(fitted[0][0][0].conv1, BayesConv2d)
    assert fitted[0][0][0].conv1.posterior.prior.kernel_size == 7


def test_the_loss_counts_the_examples_and_not_the_batch(run, fitted, dataset):
    for batch in (None, 3):
        run("few_shot", "standard_normal", [0], schedule=SCHEDULE | {"batch": batch})
    for _, _, (loss, data, _) in fitted:
        value, terms = loss(*data)
        assert value.item() == pytest.approx(terms["train_nll"].item() + terms["kl"].item() / 9, rel=1e-5)


@pytest.mark.parametrize(
    ("experiment", "method", "settings"),
    [
        ("few_shot", "dwp", {}),
        ("few_shot", "dwp", {"train_reverse_model": True}),
        ("random_features", "filters", {}),
        ("image_vae", "dwp", {}),
    ],
)
def test_an_interrupted_experiment_ends_in_the_same_rows(
    run, tmp_path, monkeypatch, experiment, method, settings
):
    checkpoint, saves = Checkpoint(tmp_path / "cell.pt", "cell", seconds=0), []

    def save(self, state, save=Checkpoint.save):
        save(self, state)
        saves.append(state["step"])
        if len(saves) == 5:  # three saves of seed 0, two of seed 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, method, [0, 1], checkpoint=checkpoint, **settings)
    assert checkpoint.of(1).path.exists()
    expected = run(experiment, method, [0, 1], **settings)
    assert run(experiment, method, [0, 1], checkpoint=checkpoint, **settings) == expected
    # Finished seeds are kept, until the whole of their shard is done.
    assert {path.name for path in tmp_path.iterdir()} == {"cell-0.pt", "cell-1.pt"}
    monkeypatch.setattr(torch.optim.Adam, "step", None)
    assert run(experiment, method, [0, 1], checkpoint=checkpoint, **settings) == expected
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_too_few_examples_are_refused(run):
    with pytest.raises(InputError, match="n = 60 needs 20 examples of class 0, which has 10"):
        run("few_shot", "plain", [0], setting=60)


def test_unknown_experiments_name_the_known_ones():
    with pytest.raises(
        InputError, match="'fewshot' is not known; use one of convergence, few_shot, image_vae, kl_"
    ):
        experiments.find("fewshot")
