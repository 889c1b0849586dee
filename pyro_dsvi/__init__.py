"""Gradient estimators for stochastic variational inference in Pyro.

A bound is one smooth function of K log weights; an estimator says how its sensitivity is sent back
across a sampled site.  Any bound goes with any estimator at any site.
"""

from pyro_dsvi import (
    baselines,
    bounds,
    diagnostics,
    distributions,
    errors,
    estimators,
    handlers,
    optim,
)
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage, Neural, OptimalScale
from pyro_dsvi.compiled import Compilation, CompiledSVI
from pyro_dsvi.errors import DSVIError, DSVIWarning
from pyro_dsvi.estimators import (
    ARM,
    REBAR,
    RELAX,
    Delta,
    DisARM,
    Enumerate,
    GumbelSoftmax,
    Marginalize,
    MeasureValued,
    Pathwise,
    ScoreFunction,
    StraightThrough,
    SumAndSample,
    Taylor,
    WithoutReplacement,
)
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
    "ARM",
    "IWAE",
    "REBAR",
    "RELAX",
    "STL",
    "VIMCO",
    "Compilation",
    "CompiledSVI",
    "DReG",
    "DSVIError",
    "DSVIWarning",
    "Delta",
    "DisARM",
    "Enumerate",
    "GumbelSoftmax",
    "LeaveOneOut",
    "Marginalize",
    "MeasureValued",
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
    "StraightThrough",
    "SumAndSample",
    "Taylor",
    "WithoutReplacement",
    "baselines",
    "bounds",
    "diagnostics",
    "distributions",
    "errors",
    "estimators",
    "handlers",
    "optim",
]
