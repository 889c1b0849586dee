r"""The score function with the credit's second-order expansion as control variate.

.. math:: h(z) = f(\mu) + g^\top (z - \mu) + \tfrac12 (z - \mu)^\top H (z - \mu), \qquad
    \nabla_\mu \mathbb{E}_q[h] = g, \quad \nabla_A \mathbb{E}_q[h] = H A

.. math:: \hat g = \big(f(z) - h(z)\big)\, \nabla \log q(z) + \nabla \mathbb{E}_q[h]

Where f is a quadratic, nothing of the draw is left.

References:
    :cite:p:`paisley2012search`
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.errors import check_whole
from pyro_dsvi.estimators.controlled import Controlled, Part
from pyro_dsvi.estimators.estimator import Bias
from pyro_dsvi.estimators.expansion import Expansion
from pyro_dsvi.estimators.gaussian import gaussian, gaussian_objection


@dataclass(frozen=True)
class Delta(Controlled):
    """Score function with the delta-method control variate; for Gaussian sites.

    For Normal and MultivariateNormal sites, with event dimensions and in plates.  Two evaluations
    of the programs: at the draw, and, differentiated twice, at the mean.  The programs need not be
    differentiable at the draw.

    Args:
        probes: the most Hessian-vector products to spend on HA, in addition to the one at the
            draw.  With as many as the site's event has dimensions HA is exact, with fewer it is
            estimated without bias; with none, h stops at the first order.

    Raises:
        InvalidArgument: if ``probes`` is not a whole number of at least 0.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> delta = dsvi.estimators.Delta()
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": delta})
    """

    probes: int = field(default=64, kw_only=True)

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("Delta: probes", self.probes, 0)

    def objection(self, q: Any) -> str | None:
        return gaussian_objection(q)

    def stand_in(self, q: Any) -> Tensor:
        return q.rsample()

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        return Counterfactual(gaussian(q, value).loc.detach().unsqueeze(0).clone(), slopes=True)

    def parts(self, visit: Visit) -> list[Part]:
        law = gaussian(visit.q, visit.value)
        expansion = Expansion(visit, law)
        noise = law.noise(visit.value)
        away = law.stretch(noise)
        first = expansion.slopes[0] * away
        second = away * expansion.curve(away) / 2 if self.probes else first.new_zeros(())
        event = list(range(-visit.q.event_dim, 0))
        rise = (first + second).sum(event, keepdim=True) if event else first + second
        guess = visit.per_value(visit.credits[0].detach()) + rise
        credit = visit.per_value(visit.credit)
        by_loc, by_factor = law.scores(noise)
        expected = by_factor.new_zeros(())
        if self.probes:
            expected = law.own(expansion.curvature(self.probes))
        return [
            Part(law.loc, credit * by_loc, expansion.slopes[0] - guess * by_loc),
            Part(
                law.factor,
                law.per_entry(credit) * by_factor,
                expected - law.per_entry(guess) * by_factor,
            ),
        ]
