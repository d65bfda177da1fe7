"""Small experiments with every kind of method, on a data set of a few images."""

import copy

import pytest
import torch
from network_samples import described

from dwp.data import Dataset
from dwp.experiments import base, task
from dwp.initialisation import build_initialised
from dwp.pipeline.typed import parse
from dwp.priors.base import find
from dwp.priors.empirical import Empirical
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

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
        "noise": {"posterior": "none", "init": {"from": "vae", "draw": "mean", "control": "noise"}},
    },
    "convergence": {name: {"init": init} for name, init in INITS.items()},
    "random_features": {name: {"init": init} for name, init in INITS.items()},
    "image_vae": {name: {"init": init} for name, init in INITS.items()},
}
# Further priors that a few-shot network can have.
OTHERS = {
    "vae/vamp": {"hidden": 3, "latent": 2, "code_prior": "vamp", "pseudo_inputs": 4},
    "flow": {"hidden": 4, "transforms": 2, "coupling": "affine"},
    "gaussian": {},
    "student_t": {},
    "gaussian_mixture": {"components": 3},
    "flow_matching": {"hidden": 4, "ode_steps": 3},
    "arbitrary_conditioning_vae": {"hidden": 4, "latent": 2},
    "structured_gaussian": {"inputs": 2},
    "mixture": {"components": 3, "norms": 2, "shrinkage": 1.0},
    "ard": {},
    "hierarchical_ard": {"shape": 0.7},
    "log_uniform/molchanov": {"approximation": "molchanov"},
}
METHODS["few_shot"] |= {
    kind: {"posterior": "additive", "prior": kind, "init": {"from": "xavier"}} for kind in OTHERS
}
ALL = [(experiment, method) for experiment, methods in METHODS.items() for method in methods]
METRICS = {
    "bayesian": {"accuracy", "nll", "brier", "ece", "mean_accuracy", "train_nll", "kl"},
    "few_shot": {"accuracy", "nll", "brier", "ece", "mean_accuracy", "train_nll"},
    "bins": {"bin_confidence", "bin_accuracy", "bin_fraction"},
    "once": {"auroc_entropy", "auroc_mutual_information", "train_flops", "predict_flops"},
    "convergence": {"accuracy", "nll", "train_nll"},
    "random_features": {"accuracy", "nll", "train_nll"},
    "image_vae": {"lower_bound", "reconstruction", "code_kl", "train_lower_bound"},
}


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def pretrained():
    """State dicts of source networks, by seed."""
    return {
        seed: build_initialised(described(**NETWORK), (1, 28, 28), 7, 10 + seed).state_dict()
        for seed in range(5)
    }


def default_setting(experiment):
    return 9 if experiment == "few_shot" else 0.5


def settings_of(experiment, method, setting, **changes):
    """Return the settings of an experiment for one method at one setting."""
    declared = base.find(experiment)
    cell = {"seeds": 5, "shard": 5, "methods": {"method": method}, declared.axis: [setting]}
    return parse(declared.settings, SETTINGS[experiment] | changes | cell)


@pytest.fixture
def run(dataset, pretrained):
    """Run a method, by name or settings, with some seeds, its priors fresh unless given; return its rows."""

    def run(experiment, method, seeds, setting=None, checkpoint=None, priors=None, **changes):
        chosen = METHODS[experiment][method] if isinstance(method, str) else method
        settings = settings_of(experiment, chosen, setting or default_setting(experiment), **changes)
        shared = {
            "settings": settings,
            "method": settings.methods["method"],
            "dataset": dataset,
            "priors": priors or make_priors(),
            "device": torch.device("cpu"),
            "outliers": dataset,
            "pretrained": pretrained if chosen["init"]["from"] == "pretrained" else {},
            "checkpoint": checkpoint,
        }
        name = method if isinstance(method, str) else "method"
        return [row for seed in seeds for row in task.run(experiment, name, seed, **shared)]

    return run


@pytest.fixture
def fitted(monkeypatch):
    """Record the models passed to `fit`, each with a copy from before; filled as experiments run."""
    models = []
    fit = task.fit

    def record(model, *arguments, **options):
        before = copy.deepcopy(model.state_dict())
        rows = fit(model, *arguments, **options)
        models.append((model, before, arguments))
        return rows

    monkeypatch.setattr(task, "fit", record)
    return models


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
