"""Kernels of trained networks: reading, pruning and storing them."""
