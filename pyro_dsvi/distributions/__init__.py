"""Distributions that Pyro has not: one a file."""

from pyro_dsvi.distributions.matrix_normal import MatrixNormal

__all__ = ["MatrixNormal"]
