"""How sensitivity crosses a sampled site: one estimator a file."""

from pyro_dsvi.estimators.arm import ARM
from pyro_dsvi.estimators.disarm import DisARM
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.measure_valued import MeasureValued
from pyro_dsvi.estimators.pathwise import Pathwise
from pyro_dsvi.estimators.score_function import ScoreFunction
from pyro_dsvi.estimators.sum_and_sample import SumAndSample
from pyro_dsvi.estimators.without_replacement import WithoutReplacement

__all__ = [
    "ARM",
    "Bias",
    "DisARM",
    "Estimator",
    "MeasureValued",
    "Pathwise",
    "ScoreFunction",
    "SumAndSample",
    "Surrogate",
    "WithoutReplacement",
]
