"""Bayesian layers: posteriors over kernels, conversion of any model, objectives and predictions."""
