"""How sensitivity crosses a sampled site: one estimator a file."""

from pyro_dsvi.estimators.arm import ARM
from pyro_dsvi.estimators.delta import Delta
from pyro_dsvi.estimators.disarm import DisARM
from pyro_dsvi.estimators.enumerate import Enumerate
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.gumbel_softmax import GumbelSoftmax
from pyro_dsvi.estimators.marginalize import Marginalize
from pyro_dsvi.estimators.measure_valued import MeasureValued
from pyro_dsvi.estimators.optimal_scale import OptimalScale
from pyro_dsvi.estimators.pathwise import Pathwise
from pyro_dsvi.estimators.rebar import REBAR
from pyro_dsvi.estimators.relax import RELAX
from pyro_dsvi.estimators.score_function import ScoreFunction
from pyro_dsvi.estimators.straight_through import StraightThrough
from pyro_dsvi.estimators.sum_and_sample import SumAndSample
from pyro_dsvi.estimators.taylor import Taylor
from pyro_dsvi.estimators.without_replacement import WithoutReplacement

__all__ = [
    "ARM",
    "REBAR",
    "RELAX",
    "Bias",
    "Delta",
    "DisARM",
    "Enumerate",
    "Estimator",
    "GumbelSoftmax",
    "Marginalize",
    "MeasureValued",
    "OptimalScale",
    "Pathwise",
    "ScoreFunction",
    "StraightThrough",
    "SumAndSample",
    "Surrogate",
    "Taylor",
    "WithoutReplacement",
]
