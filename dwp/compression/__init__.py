"""Compression of Bayesian networks: pruned channels, smaller networks, low-precision weights."""
