"""Gaussian laws of random tensors: one a file."""
