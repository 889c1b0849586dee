r"""The coefficient of least variance for any baseline.

.. math:: a^\star = \frac{\mathbb{E}[\,\|s\|^2\, c\, b\,]}{\mathbb{E}[\,\|s\|^2\, b^2\,]},
    \qquad s = \nabla \log q(z)

It is fitted on past steps alone, so that the estimate stays unbiased.

References:
    :cite:p:`greensmith2004`, :cite:p:`ranganath2014bbvi`
"""

import torch
from torch import Tensor

from pyro_dsvi.baselines.baseline import Baseline, PerSite
from pyro_dsvi.baselines.visit import Visit
from pyro_dsvi.errors import InvalidArgument


class OptimalScale(Baseline):
    """Multiplies a baseline by the coefficient that past steps found best, one a site.

    Before the first step the coefficient is 1.

    Args:
        baseline: the baseline to scale.
        decay: weight of the past in the running moments, in [0, 1).

    Raises:
        InvalidArgument: if ``baseline`` is not a baseline or ``decay`` is outside [0, 1).

    Example:
        >>> import pyro_dsvi as dsvi
        >>> scaled = dsvi.baselines.OptimalScale(dsvi.baselines.MovingAverage())
        >>> elbo = dsvi.ScoreFunctionELBO(scaled)
    """

    def __init__(self, baseline: Baseline, *, decay: float = 0.99) -> None:
        super().__init__()
        if not isinstance(baseline, Baseline):
            raise InvalidArgument(
                f"OptimalScale: expected a baseline, got {type(baseline).__name__}; "
                "e.g. OptimalScale(MovingAverage())"
            )
        if not 0 <= decay < 1:
            raise InvalidArgument(f"OptimalScale: decay must be in [0, 1), got {decay}")
        self.baseline = baseline
        self.decay = decay
        self.min_particles = baseline.min_particles
        self.moments = PerSite()

    def coefficient(self, visit: Visit) -> Tensor:
        """The site's coefficient, a scalar."""
        cross, square = self.moments.row(visit.site, 2, visit.credit)
        return torch.where(square > 0, cross / square, torch.ones_like(cross))

    def predict(self, visit: Visit) -> Tensor:
        return self.coefficient(visit) * self.baseline.predict(visit)

    def loss(self, visit: Visit) -> Tensor | None:
        return self.baseline.loss(visit)

    @torch.no_grad()
    def update(self, visit: Visit) -> None:
        prediction, weight = self.baseline.predict(visit), visit.score_norm()
        cross = (weight * visit.credit * prediction).mean()
        square = (weight * prediction.square()).mean()
        seen = torch.stack([cross, square])
        row = self.moments.row(visit.site, 2, visit.credit)
        row.copy_(torch.where(seen.isfinite().all(), row.lerp(seen.to(row), 1 - self.decay), row))
        self.baseline.update(visit)

    def inherit(self, previous: Baseline) -> None:
        if isinstance(previous, OptimalScale):
            self.moments = previous.moments
            self.baseline.inherit(previous.baseline)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"
