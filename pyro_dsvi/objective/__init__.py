"""An objective, and one step of it from a pair of Pyro programs to a surrogate."""

from pyro_dsvi.objective.objective import Objective
from pyro_dsvi.objective.pair import Program

__all__ = ["Objective", "Program"]
