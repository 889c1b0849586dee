"""How sensitivity crosses a sampled site: one estimator a file."""

from pyro_dsvi.estimators.enumerate import Enumerate
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.gumbel_softmax import GumbelSoftmax
from pyro_dsvi.estimators.marginalize import Marginalize
from pyro_dsvi.estimators.pathwise import Pathwise
from pyro_dsvi.estimators.score_function import ScoreFunction
from pyro_dsvi.estimators.straight_through import StraightThrough

__all__ = [
    "Bias",
    "Enumerate",
    "Estimator",
    "GumbelSoftmax",
    "Marginalize",
    "Pathwise",
    "ScoreFunction",
    "StraightThrough",
    "Surrogate",
]
