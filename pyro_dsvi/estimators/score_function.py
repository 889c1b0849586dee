r"""The score-function estimator (REINFORCE): differentiate the density, not the draw.

.. math:: \nabla_\varphi \mathbb{E}_{q_\varphi}[f(z)]
    = \mathbb{E}_{q_\varphi}[(f(z) - b)\,\nabla_\varphi \log q_\varphi(z)]

References:
    :cite:p:`williams1992reinforce`, :cite:p:`ranganath2014bbvi`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_dsvi.baselines import Baseline, Visit
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.law import is_point_mass, support_moves


@dataclass(frozen=True)
class ScoreFunction(Estimator):
    """Credit times score, less a baseline; for any distribution with a log density.

    Args:
        baseline: what is subtracted from the credit, or None.

    Raises:
        InvalidArgument: if ``baseline`` is not a baseline.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> estimator = dsvi.ScoreFunction(baseline=dsvi.baselines.LeaveOneOut())
        >>> elbo = dsvi.Objective(
        ...     dsvi.bounds.Evidence(), num_particles=4, estimators={"z": estimator}
        ... )
    """

    baseline: Baseline | None = None

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.baseline is not None and not isinstance(self.baseline, Baseline):
            raise InvalidArgument(
                f"ScoreFunction: expected a baseline, got {self.baseline!r}; "
                "e.g. ScoreFunction(dsvi.baselines.MovingAverage())"
            )

    def objection(self, q: Any) -> str | None:
        if is_point_mass(q):
            return "a point mass has no score; use dsvi.estimators.Pathwise() here"
        if support_moves(q):
            return (
                f"the support of {type(q).__name__} depends on parameters that are learnt, "
                "which no score function sees; use dsvi.estimators.Pathwise() here"
            )
        return None

    def surrogate(self, visit: Visit) -> Surrogate:
        if self.baseline is None:
            return Surrogate(visit.credit, visit.score)
        weight = visit.credit - self.baseline.predict(visit)
        return Surrogate(weight, visit.score, self.baseline.loss(visit))
