"""How K log weights become one number: plain torch, nothing of Pyro."""

from pyro_dsvi.bounds.apart import Apart
from pyro_dsvi.bounds.bound import Bound
from pyro_dsvi.bounds.ciwae import CIWAE
from pyro_dsvi.bounds.cubo import CUBO
from pyro_dsvi.bounds.evidence import Evidence
from pyro_dsvi.bounds.iwae import IWAE
from pyro_dsvi.bounds.miwae import MIWAE
from pyro_dsvi.bounds.partition import LogUniform, Moments, Partition, Points
from pyro_dsvi.bounds.piwae import PIWAE
from pyro_dsvi.bounds.pursuit import Pursuit
from pyro_dsvi.bounds.renyi import Renyi
from pyro_dsvi.bounds.rws import RWS, WakePhi
from pyro_dsvi.bounds.tail_adaptive import TailAdaptive, TailWeights
from pyro_dsvi.bounds.tvo import TVO, Covariance, Rule
from pyro_dsvi.bounds.weighting import Weighting

__all__ = [
    "CIWAE",
    "CUBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "RWS",
    "TVO",
    "Apart",
    "Bound",
    "Covariance",
    "Evidence",
    "LogUniform",
    "Moments",
    "Partition",
    "Points",
    "Pursuit",
    "Renyi",
    "Rule",
    "TailAdaptive",
    "TailWeights",
    "WakePhi",
    "Weighting",
]
