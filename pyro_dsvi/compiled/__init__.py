"""A step recorded once as a graph of tensor operations, and replayed without Pyro."""

from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.gradients import CompiledGradients
from pyro_dsvi.compiled.outcome import Outcome

__all__ = ["Compilation", "CompiledGradients", "Outcome"]
