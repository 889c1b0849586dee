"""A step recorded once as a graph of tensor operations, and replayed without Pyro."""

from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.gradients import CompiledGradients
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.svi import CompiledSVI

__all__ = ["Compilation", "CompiledGradients", "CompiledSVI", "Outcome"]
