"""Networks as Pyro programs: priors, initialisation, pruning."""

from pyro_dsvi.nn.bayesianize import BayesianModule, bayesianize
from pyro_dsvi.nn.init_to_network import init_to_network
from pyro_dsvi.nn.prior import IID, FanIn
from pyro_dsvi.nn.prune import Pruned, prune
from pyro_dsvi.nn.weight import Weight

__all__ = [
    "IID",
    "BayesianModule",
    "FanIn",
    "Pruned",
    "Weight",
    "bayesianize",
    "init_to_network",
    "prune",
]
