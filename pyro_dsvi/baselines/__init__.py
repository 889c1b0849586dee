"""What is subtracted from a score-function site's credit: plain torch, nothing of Pyro."""

from pyro_dsvi.baselines.baseline import Baseline
from pyro_dsvi.baselines.keeper import Keeper
from pyro_dsvi.baselines.leave_one_out import LeaveOneOut
from pyro_dsvi.baselines.moving_average import MovingAverage
from pyro_dsvi.baselines.neural import Neural
from pyro_dsvi.baselines.optimal_scale import OptimalScale
from pyro_dsvi.baselines.visit import Counterfactual, Visit

__all__ = [
    "Baseline",
    "Counterfactual",
    "Keeper",
    "LeaveOneOut",
    "MovingAverage",
    "Neural",
    "OptimalScale",
    "Visit",
]
