r"""The exact sum over a site's support: no draw, no variance.

.. math:: \nabla_\varphi \mathbb{E}_{q_\varphi}[f(z)]
    = \nabla_\varphi \sum_{z \in \mathcal{Z}} q_\varphi(z)\, f(z)

The site takes every value of its support at once, in a tensor dimension of its own, and each cost
that it reaches is summed with the probabilities of the values; whatever it does not reach is
computed once.  Costs multiply over sites that depend on each other, and add over those that don't.

References:
    :cite:p:`titsias2015local`, :cite:p:`bingham2019pyro`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.law import innermost


@dataclass(frozen=True)
class Enumerate(Estimator):
    """Sums over the support of a discrete site, exactly; for the evidence lower bound.

    For Bernoulli, Categorical, OneHotCategorical, Binomial with one common total count: whatever
    has a finite ``enumerate_support``.  A site inside a plate is summed for each of its elements
    by itself.  Its value must not be read by Python, in an ``if`` say: it is all values at once.
    A site that is drawn downstream of it is drawn once for each of its values.

    Under a K-sample bound such a sum stands inside the logarithm and makes another bound; that is
    :class:`~pyro_dsvi.estimators.Marginalize`.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.Enumerate()})
    """

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = True
    enumerates: ClassVar[bool] = True
    additive_only: ClassVar[str | None] = (
        "under a K-sample bound the sum over a support stands inside the logarithm, which makes "
        "another, tighter bound; ask for it by dsvi.estimators.Marginalize(), or use "
        "dsvi.bounds.Evidence()"
    )

    def objection(self, q: Any) -> str | None:
        return objection_to_support(q)

    def needs_credit(self, q: Any) -> bool:
        return False

    def surrogate(self, visit: Visit) -> Surrogate:
        return Surrogate(visit.credit, visit.score)


def objection_to_support(q: Any) -> str | None:
    """Why a distribution's support cannot be taken as a whole; None if it can."""
    try:
        if getattr(q, "has_enumerate_support", False):
            q.enumerate_support(expand=False)
            return None
        reason = ""
    except NotImplementedError as error:
        reason = f": {error}"
    inner = innermost(q)
    event = q.event_shape[: q.event_dim - inner.event_dim]
    if len(event) and getattr(inner, "has_enumerate_support", False):
        size, each = event.numel(), len(inner.enumerate_support(expand=False))
        return (
            f"the support of a {type(inner).__name__} with .to_event({len(event)}) is a product: "
            f"{each}^{size} joint values for its {size} elements; put the elements into a "
            "pyro.plate, where each is summed by itself, or use dsvi.estimators.ScoreFunction()"
        )
    return (
        f"{type(inner).__name__} has no finite support to enumerate{reason}; use "
        "dsvi.estimators.Pathwise() or ScoreFunction() here"
    )
