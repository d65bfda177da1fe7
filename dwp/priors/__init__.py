"""Distributions over convolution kernels."""

from dwp.priors.base import Prior, find, load_prior, register, save_prior

__all__ = ["Prior", "find", "load_prior", "register", "save_prior"]
