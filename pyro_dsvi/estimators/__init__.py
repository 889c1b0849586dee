"""How sensitivity crosses a sampled site: one estimator a file."""

from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.pathwise import Pathwise
from pyro_dsvi.estimators.rebar import REBAR
from pyro_dsvi.estimators.relax import RELAX
from pyro_dsvi.estimators.score_function import ScoreFunction

__all__ = ["RELAX", "REBAR", "Bias", "Estimator", "Pathwise", "ScoreFunction", "Surrogate"]
