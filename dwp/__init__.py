"""The Deep Weight Prior: a prior over convolution kernels, learned from trained networks.

    import dwp

    prior = dwp.load_prior("notmnist-7x7")
    dwp.init_(model, [prior])

The most common functions and classes are here; the others are in the modules.
"""

import importlib
from typing import Any

# `__init__.pyi` gives their types to editors and type checkers.
_HOMES = {
    "InputError": "dwp.errors",
    "KLEstimator": "dwp.priors.base",
    "Noise": "dwp.nn.noise",
    "Prior": "dwp.priors.base",
    "collect": "dwp.kernels.collection",
    "fit_prior": "dwp.fitting",
    "init_": "dwp.initialisation",
    "kl": "dwp.bayes.layers",
    "list_priors": "dwp.loading",
    "load_prior": "dwp.loading",
    "make_bayesian": "dwp.bayes.layers",
    "predict": "dwp.bayes.layers",
    "sample_posterior": "dwp.bayes.sampling",
    "save_prior": "dwp.priors.base",
    "set_noise": "dwp.nn.noise",
    "shrink": "dwp.compression.shrinking",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import dwp` and the start of the workflow do not import PyTorch.
    if name not in _HOMES:
        raise AttributeError(f"module 'dwp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
