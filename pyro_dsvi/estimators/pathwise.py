r"""The pathwise estimator: differentiate through the draw.

.. math:: z = g(\varphi, \varepsilon), \qquad \nabla_\varphi \mathbb{E}_{q_\varphi}[f(z)]
    = \mathbb{E}_\varepsilon[\nabla_\varphi f(g(\varphi, \varepsilon))]

A partly reparameterised distribution (a rejection sampler, say) keeps its second term, the credit
times the gradient of the part that the path leaves out.

References:
    :cite:p:`kingma2014vae`, :cite:p:`rezende2014dlgm`, :cite:p:`naesseth2017reparameterization`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.law import is_partly_reparameterised, partial_score


@dataclass(frozen=True)
class Pathwise(Estimator):
    """Reparameterised draws; needs a distribution with ``rsample``.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.Pathwise()})
    """

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def objection(self, q: Any) -> str | None:
        if getattr(q, "has_rsample", False):
            return None
        return (
            f"{type(q).__name__} has no rsample, so no gradient passes through its draws; "
            "use dsvi.estimators.ScoreFunction() here"
        )

    def needs_credit(self, q: Any) -> bool:
        return is_partly_reparameterised(q)

    def score(self, q: Any, value: Tensor) -> Tensor:
        return partial_score(q, value)

    def surrogate(self, visit: Visit) -> Surrogate:
        return Surrogate(visit.credit, visit.score)
