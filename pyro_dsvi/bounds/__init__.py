"""How K log weights become one number: plain torch, nothing of Pyro."""

from pyro_dsvi.bounds.bound import Bound
from pyro_dsvi.bounds.evidence import Evidence
from pyro_dsvi.bounds.iwae import IWAE
from pyro_dsvi.bounds.renyi import Renyi

__all__ = ["IWAE", "Bound", "Evidence", "Renyi"]
