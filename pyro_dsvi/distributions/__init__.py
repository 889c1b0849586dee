"""Distributions that torch and Pyro lack: improper, shrinking, multiplicative; one a file."""

from pyro_dsvi.distributions.ard import ARD
from pyro_dsvi.distributions.dropout_divergence import exact, kingma, molchanov
from pyro_dsvi.distributions.horseshoe import Horseshoe
from pyro_dsvi.distributions.log_uniform import LogUniform
from pyro_dsvi.distributions.matrix_normal import MatrixNormal
from pyro_dsvi.distributions.multiplicative_normal import MultiplicativeNormal
from pyro_dsvi.distributions.spike_and_slab import SpikeAndSlab

__all__ = [
    "ARD",
    "Horseshoe",
    "LogUniform",
    "MatrixNormal",
    "MultiplicativeNormal",
    "SpikeAndSlab",
    "exact",
    "kingma",
    "molchanov",
]
