r"""Sum a site out of the model, inside the log weight: it is no latent any more.

.. math:: \ell = \log \sum_z p(x, z, u) - \log q(u)

The bound is the one that a guide without the site would have, if the model enumerated it: at least
as tight as the bound with the site in the guide, by Jensen's inequality.  The guide's distribution
serves to name the support, and is not learnt.

References:
    :cite:p:`burda2016iwae`, :cite:p:`obermeyer2019tensor`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.enumerate import objection_to_support
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate


@dataclass(frozen=True)
class Marginalize(Estimator):
    """Sums a discrete site out of the model; for any bound, which it changes.

    No other site of the guide may depend on the value.  Scale must be the same at the site and
    at everything in the model that depends on it.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.IWAE(16, estimators={"z": dsvi.Marginalize()})
    """

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = True
    enumerates: ClassVar[bool] = True

    def objection(self, q: Any) -> str | None:
        return objection_to_support(q)

    def needs_credit(self, q: Any) -> bool:
        return False

    def surrogate(self, visit: Visit) -> Surrogate:
        return Surrogate(visit.credit, visit.score)
