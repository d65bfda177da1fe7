"""A small prior of every kind, for tests that apply to all of them."""

import torch
from prior_helpers import seeded

from dwp.priors.ard import ARD
from dwp.priors.base import find
from dwp.priors.gabor import Gabor
from dwp.priors.hierarchical_ard import HierarchicalARD
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.structured_gaussian import StructuredGaussian

SCHEDULE = {"lr": 0.01, "steps": 3, "batch": 20, "precision": "float32"}
FITTED = {
    "empirical": ("empirical", {}),
    "gaussian": ("gaussian", {}),
    "student_t": ("student_t", {}),
    "mixture": ("mixture", {"components": 3}),
    "gaussian_mixture": ("gaussian_mixture", {"components": 4}),
    "flow": ("flow", {"hidden": 8, "transforms": 2, "schedule": SCHEDULE}),
    "spline flow": ("flow", {"hidden": 8, "transforms": 2, "coupling": "spline", "schedule": SCHEDULE}),
    "flow_matching": ("flow_matching", {"hidden": 8, "ode_steps": 5, "schedule": SCHEDULE}),
    "pairwise_augmented_gan": ("pairwise_augmented_gan", {"hidden": 8, "schedule": SCHEDULE}),
    "metropolis_hastings": ("metropolis_hastings", {"hidden": 8, "proposals": 2, "schedule": SCHEDULE}),
    "arbitrary_conditioning_vae": (
        "arbitrary_conditioning_vae",
        {"hidden": 8, "latent": 2, "schedule": SCHEDULE},
    ),
    "vae": ("vae", {"hidden": 4, "latent": 2, "schedule": SCHEDULE}),
    "whitened_vae": ("whitened_vae", {"hidden": 4, "latent": 2, "schedule": SCHEDULE}),
    "vamp": ("vae", {"hidden": 4, "latent": 2, "code_prior": "vamp", "schedule": SCHEDULE}),
}
ANALYTIC = {
    "standard_normal": lambda: StandardNormal(5, scale=0.3),
    "structured_gaussian": lambda: StructuredGaussian(5, inputs=3, width=0.2),
    "gabor": lambda: Gabor(5, inputs=3),
    "log_uniform": lambda: LogUniform(5, approximation="molchanov"),
    "ard": lambda: ARD(5),
    "hierarchical_ard": lambda: HierarchicalARD(5, shape=0.7),
}
KINDS = [*ANALYTIC, *FITTED]
SAMPLED = [kind for kind in KINDS if kind not in ("log_uniform", "ard", "hierarchical_ard")]
SAMPLES_ONLY = ("empirical", "gabor", "pairwise_augmented_gan", "metropolis_hastings")
PAID = [kind for kind in KINDS if kind not in SAMPLES_ONLY]


def make(kind, seed=0):
    if kind in ANALYTIC:
        return ANALYTIC[kind]()
    name, settings = FITTED[kind]
    train, test = torch.randn(60, 1, 5, 5, generator=seeded(1)), torch.randn(9, 1, 5, 5, generator=seeded(2))
    return find(name).fit(train, test, settings, seed=seed)[0]
