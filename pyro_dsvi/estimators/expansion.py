r"""What a Gaussian site answers for, expanded to second order about the mean.

.. math:: f(z) \approx f(\mu) + g^\top (z - \mu) + \tfrac12 (z - \mu)^\top H (z - \mu)

The slope g is one backward pass, a product with the curvature H another one behind it.  What the
expectation of a gradient in A needs is

.. math:: \mathbb{E}\big[H A \varepsilon\, \varepsilon^\top\big] = H A
    = \textstyle\sum_m \mathbb{E}_s\big[H A s_m\, s_m^\top\big]

where the probes :math:`s_m` have random signs in one part each of the site's dimensions and zeros
elsewhere.  With as many probes as dimensions HA is exact; with fewer it is unbiased, and
independent of the draw.  Signs differ from plate element to plate element, so that elements which
answer for a common cost do not disturb one another in expectation.

References:
    :cite:p:`miller2017taylor`, :cite:p:`paisley2012search`
"""

import math

import torch
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.gaussian import Gaussian


class Expansion:
    """Slope and curvature of what a site answers for, at the first of its counterfactual values.

    Args:
        visit: the visit of a Gaussian site that asked for slopes at its mean, and then perhaps
            elsewhere.
        law: the site's distribution.

    Attributes:
        slopes: slope at every value asked about, in nats a unit, shape ``[A, *value.shape]``.
    """

    def __init__(self, visit: Visit, law: Gaussian) -> None:
        assert visit.counterfactual is not None
        self.law = law
        self.event_dim = visit.q.event_dim
        self._at = visit.counterfactual.values
        self._slopes = _slope(visit.totals.sum(), self._at)
        self.slopes = self._slopes.detach()

    def curve(self, direction: Tensor) -> Tensor:
        """The product of the curvature at the mean and a direction of the value's shape."""
        along = (self._slopes[0] * direction).sum()
        return _slope(along, self._at)[0].detach()

    def curvature(self, probes: int) -> Tensor:
        """An unbiased estimate of HA, or of its diagonal where A is one; exact with enough probes.

        Args:
            probes: the most products to spend; must be positive.
        """
        shape = self.law.loc.shape
        size = math.prod(shape[len(shape) - self.event_dim :])
        used = min(probes, size)
        part = torch.arange(size, device=self.law.loc.device) % used
        part = part.reshape(shape[len(shape) - self.event_dim :])
        signs = torch.randint_like(self.law.loc.detach(), 2) * 2 - 1
        total = torch.zeros_like(self.law.factor)
        for m in range(used):
            probe = torch.where(part == m, signs, 0.0)
            total = total + self.law.outer(self.curve(self.law.stretch(probe)), probe)
        return total.detach()


def _slope(of: Tensor, at: Tensor) -> Tensor:
    if not of.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(of, at, create_graph=True, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope
