"""Posteriors for arviz."""

from pyro_dsvi.export.loo import loo
from pyro_dsvi.export.to_arviz import export_groups, to_arviz

__all__ = ["export_groups", "loo", "to_arviz"]
