r"""The pathwise estimator with the slope's first-order expansion as control variate.

.. math:: \nabla f(z) \approx \tilde g(\varepsilon) = \nabla f(\mu) + H A \varepsilon,
    \qquad z = \mu + A \varepsilon

What it does to the mean and to A is known in expectation,

.. math:: \mathbb{E}[\tilde g] = \nabla f(\mu), \qquad \mathbb{E}[\tilde g\, \varepsilon^\top] = H A

so that :math:`-H A \varepsilon` is added to the gradient in the mean, and
:math:`H A - \tilde g\, \varepsilon^\top` to the one in A.  Where log p is a quadratic, nothing of
the draw is left in either.

References:
    :cite:p:`miller2017taylor`
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
class Taylor(Controlled):
    r"""Reparameterised draws less their first-order expansion; for Gaussian sites.

    For Normal and MultivariateNormal sites, with event dimensions and in plates.  Two evaluations
    of the programs: at the draw, and, differentiated twice, at the mean.

    Args:
        probes: the most Hessian-vector products to spend on HA, in addition to the one at the
            draw.  With as many as the site's event has dimensions HA is exact, with fewer it is
            estimated without bias; with none, the gradient in A is corrected to zeroth order, by
            :math:`-\nabla f(\mu)\, \varepsilon^\top`.

    Raises:
        InvalidArgument: if ``probes`` is not a whole number of at least 0.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> taylor = dsvi.estimators.Taylor()
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": taylor})
    """

    probes: int = field(default=64, kw_only=True)

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("Taylor: probes", self.probes, 0)

    def objection(self, q: Any) -> str | None:
        return gaussian_objection(q)

    def score(self, q: Any, value: Tensor) -> Tensor:
        return value.new_zeros(q.batch_shape)  # its gradient comes by the value

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        return Counterfactual(gaussian(q, value).loc.detach().unsqueeze(0).clone(), slopes=True)

    def parts(self, visit: Visit) -> list[Part]:
        law = gaussian(visit.q, visit.value)
        expansion = Expansion(visit, law)
        noise = law.noise(visit.value)
        slope, bent = expansion.slopes[0], expansion.curve(law.stretch(noise))
        if self.probes:
            expected = expansion.curvature(self.probes)
            by_factor = expected - law.outer(slope + bent, noise)
        else:
            by_factor = -law.outer(slope, noise)
        drawn = expansion.slopes[1] if len(expansion.slopes) > 1 else None
        drawn_factor = None if drawn is None else law.outer(drawn, noise)
        return [Part(law.loc, drawn, -bent), Part(law.factor, drawn_factor, by_factor)]
