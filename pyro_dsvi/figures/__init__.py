"""Figures of a fit: its bound by step, and the variance of its gradients."""

from pyro_dsvi.figures.bound_by_step import plot_bound
from pyro_dsvi.figures.gradient_variance import plot_gradient_variance

__all__ = ["plot_bound", "plot_gradient_variance"]
