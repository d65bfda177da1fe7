"""Distributions over convolution kernels."""

from dwp.priors.base import Bound, Prior, find, load_prior, register, save_prior

__all__ = ["Bound", "Prior", "find", "load_prior", "register", "save_prior"]
