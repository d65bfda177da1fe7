"""Distributions over convolution kernels."""
