"""How sensitivity crosses a sampled site: one estimator a file."""

from pyro_dsvi.estimators.delta import Delta
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.optimal_scale import OptimalScale
from pyro_dsvi.estimators.pathwise import Pathwise
from pyro_dsvi.estimators.rebar import REBAR
from pyro_dsvi.estimators.relax import RELAX
from pyro_dsvi.estimators.score_function import ScoreFunction
from pyro_dsvi.estimators.taylor import Taylor

__all__ = [
    "REBAR",
    "RELAX",
    "Bias",
    "Delta",
    "Estimator",
    "OptimalScale",
    "Pathwise",
    "ScoreFunction",
    "Surrogate",
    "Taylor",
]
