r"""The running mean of a site's credit: the REINFORCE+ of the lectures.

.. math:: m_t = \beta m_{t-1} + (1 - \beta)\, \bar c_t, \qquad b_t = m_{t-1} / (1 - \beta^{t-1})

References:
    :cite:p:`williams1992reinforce`, :cite:p:`mnih2014nvil`
"""

import torch
from torch import Tensor

from pyro_dsvi.baselines.baseline import Baseline, PerSite
from pyro_dsvi.baselines.visit import Visit
from pyro_dsvi.errors import InvalidArgument


class MovingAverage(Baseline):
    """One number a site: the mean credit of past steps, over particles and plate elements.

    The mean is kept per datum, with the subsampling scale divided out, so that a smaller last
    batch neither fails nor shifts it.  A credit that is not finite is not remembered.

    Args:
        decay: weight of the past in each update, in [0, 1).

    Raises:
        InvalidArgument: if ``decay`` is outside [0, 1).

    Example:
        >>> import pyro_dsvi as dsvi
        >>> baseline = dsvi.baselines.MovingAverage(decay=0.95)
        >>> elbo = dsvi.ScoreFunctionELBO(baseline)
    """

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InvalidArgument(f"MovingAverage: decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.average = PerSite()

    def predict(self, visit: Visit) -> Tensor:
        total, weight = self.average.row(visit.site, 2, visit.credit)
        return total / weight.clamp_min(1e-12) * visit.scale

    @torch.no_grad()
    def update(self, visit: Visit) -> None:
        credit = (visit.credit / visit.scale).mean()
        seen = torch.stack([credit, torch.ones_like(credit)])
        row = self.average.row(visit.site, 2, visit.credit)
        row.copy_(torch.where(credit.isfinite(), row.lerp(seen.to(row), 1 - self.decay), row))

    def inherit(self, previous: Baseline) -> None:
        if isinstance(previous, MovingAverage):
            self.average = previous.average

    def __repr__(self) -> str:
        return f"MovingAverage(decay={self.decay})"
