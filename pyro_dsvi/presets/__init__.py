"""Objectives by name, each a few lines over :class:`~pyro_dsvi.objective.Objective`."""

from pyro_dsvi.presets.family import CIWAE, CUBO, MIWAE, PIWAE, TVO, TailAdaptive
from pyro_dsvi.presets.lectures import (
    IWAE,
    STL,
    VIMCO,
    DReG,
    MixedELBO,
    PathwiseELBO,
    Renyi,
    ScoreFunctionELBO,
)
from pyro_dsvi.presets.wake_sleep import RWS

__all__ = [
    "CIWAE",
    "CUBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "RWS",
    "STL",
    "TVO",
    "VIMCO",
    "DReG",
    "MixedELBO",
    "PathwiseELBO",
    "Renyi",
    "ScoreFunctionELBO",
    "TailAdaptive",
]
