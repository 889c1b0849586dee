"""Gradient estimators for stochastic variational inference in Pyro.

A bound is one smooth function of K log weights; an estimator says how its sensitivity is sent back
across a sampled site.  Any bound goes with any estimator at any site.
"""

from pyro_dsvi import baselines, bounds, errors, estimators
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage, Neural, OptimalScale
from pyro_dsvi.errors import DSVIError, DSVIWarning
from pyro_dsvi.estimators import REBAR, RELAX, Delta, Pathwise, ScoreFunction, Taylor
from pyro_dsvi.objective import Objective
from pyro_dsvi.presets import (
    IWAE,
    STL,
    VIMCO,
    DReG,
    MixedELBO,
    PathwiseELBO,
    Renyi,
    ScoreFunctionELBO,
)

__version__ = "0.1.0"

__all__ = [
    "IWAE",
    "REBAR",
    "RELAX",
    "STL",
    "VIMCO",
    "DReG",
    "DSVIError",
    "DSVIWarning",
    "Delta",
    "LeaveOneOut",
    "MixedELBO",
    "MovingAverage",
    "Neural",
    "Objective",
    "OptimalScale",
    "Pathwise",
    "PathwiseELBO",
    "Renyi",
    "ScoreFunction",
    "ScoreFunctionELBO",
    "Taylor",
    "baselines",
    "bounds",
    "errors",
    "estimators",
]
