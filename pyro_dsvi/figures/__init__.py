"""Figures of a fit; each returns a matplotlib ``Figure``, to be shown or saved.

Colours are those of Okabe and Ito, which stay apart for colour-blind eyes, and lines and markers
tell apart what colours do, for print.
"""

from pyro_dsvi.figures.pareto_k import draw_pareto_k
from pyro_dsvi.figures.posterior import draw_posterior
from pyro_dsvi.figures.predictive import draw_predictive

__all__ = ["draw_pareto_k", "draw_posterior", "draw_predictive"]
