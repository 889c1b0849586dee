"""Figures of a fit; each returns a matplotlib ``Figure``, to be shown or saved.

Colours are those of Okabe and Ito, which stay apart for colour-blind eyes, and lines and markers
tell apart what colours do, for print.
"""

from pyro_dsvi.figures.bound_by_step import plot_bound
from pyro_dsvi.figures.gradient_variance import plot_gradient_variance
from pyro_dsvi.figures.pareto_k import plot_pareto_k
from pyro_dsvi.figures.posterior import plot_posterior
from pyro_dsvi.figures.predictive import plot_predictive

__all__ = [
    "plot_bound",
    "plot_gradient_variance",
    "plot_pareto_k",
    "plot_posterior",
    "plot_predictive",
]
