"""How sensitivity crosses a sampled site: one estimator a file."""

from pyro_dsvi.estimators.enumerate import Enumerate
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.marginalize import Marginalize
from pyro_dsvi.estimators.pathwise import Pathwise
from pyro_dsvi.estimators.score_function import ScoreFunction

__all__ = [
    "Bias",
    "Enumerate",
    "Estimator",
    "Marginalize",
    "Pathwise",
    "ScoreFunction",
    "Surrogate",
]
