from dwp.bayes.layers import kl, make_bayesian, predict
from dwp.errors import InputError
from dwp.initialisation import init_
from dwp.nn.noise import Noise, set_noise
from dwp.priors.base import KLEstimator, Prior, load_prior, save_prior

__all__ = [
    "InputError",
    "KLEstimator",
    "Noise",
    "Prior",
    "init_",
    "kl",
    "load_prior",
    "make_bayesian",
    "predict",
    "save_prior",
    "set_noise",
]
