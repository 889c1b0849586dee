"""Random tensors that are not drawn until they have to be: plain torch, one idea a file."""

from pyro_dsvi.lazy.laws.diagonal import Diagonal
from pyro_dsvi.lazy.laws.factored import Factored
from pyro_dsvi.lazy.laws.kronecker import Kronecker
from pyro_dsvi.lazy.laws.law import Law
from pyro_dsvi.lazy.plan import Plan
from pyro_dsvi.lazy.root import Root
from pyro_dsvi.lazy.rules import RULES
from pyro_dsvi.lazy.value import Undrawn, undrawn

__all__ = [
    "RULES",
    "Diagonal",
    "Factored",
    "Kronecker",
    "Law",
    "Plan",
    "Root",
    "Undrawn",
    "undrawn",
]
