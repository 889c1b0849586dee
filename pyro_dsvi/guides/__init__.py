"""Guides: one a file."""

from pyro_dsvi.guides.auto_variational_dropout import AutoVariationalDropout

__all__ = ["AutoVariationalDropout"]
