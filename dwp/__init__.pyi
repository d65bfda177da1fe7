from dwp.bayes.layers import kl, make_bayesian, predict
from dwp.errors import InputError
from dwp.fitting import fit_prior
from dwp.initialisation import init_
from dwp.kernels.collection import collect
from dwp.nn.noise import Noise, set_noise
from dwp.priors.base import KLEstimator, Prior, load_prior, save_prior

__all__ = [
    "InputError",
    "KLEstimator",
    "Noise",
    "Prior",
    "collect",
    "fit_prior",
    "init_",
    "kl",
    "load_prior",
    "make_bayesian",
    "predict",
    "save_prior",
    "set_noise",
]
