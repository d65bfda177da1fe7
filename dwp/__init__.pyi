from dwp.bayes.layers import kl, make_bayesian, predict
from dwp.bayes.sampling import sample_posterior
from dwp.compression.shrinking import shrink
from dwp.errors import InputError
from dwp.fitting import fit_prior
from dwp.initialisation import init_
from dwp.kernels.collection import collect
from dwp.loading import list_priors, load_prior
from dwp.nn.noise import Noise, set_noise
from dwp.priors.base import KLEstimator, Prior, save_prior

__all__ = [
    "InputError",
    "KLEstimator",
    "Noise",
    "Prior",
    "collect",
    "fit_prior",
    "init_",
    "kl",
    "list_priors",
    "load_prior",
    "make_bayesian",
    "predict",
    "sample_posterior",
    "save_prior",
    "set_noise",
    "shrink",
]
