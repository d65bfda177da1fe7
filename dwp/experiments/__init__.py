"""Experiments: each module compares methods on the target data set."""
