r"""How far dropout noise N(μ, αμ²) is from a log-uniform prior: a function of α alone.

.. math::
    \mathrm{KL}\big(N(\mu, \alpha\mu^2) \,\|\, p(w) \propto 1/|w|\big)
    = 2 \int_0^{1/\sqrt{2\alpha}} D(s)\,ds,
    \qquad \frac{\partial\,\mathrm{KL}}{\partial \log\alpha} = -u\,D(u), \quad u = 1/\sqrt{2\alpha}

with D Dawson's function, and the prior's free constant chosen so that the divergence vanishes at
:math:`\alpha = \infty`.  It is half the difference of the expected logarithms of a noncentral and
a central chi-square variable with one degree of freedom.  The published approximations were fitted
before this form was known, and are here for comparison with results that rest on them.

All take :math:`1/\alpha = \mu^2/\sigma^2`, which has no singularity where a mean crosses zero.

References:
    :cite:p:`kingma2015local`, :cite:p:`molchanov2017variational`,
    :cite:p:`hron2018variational`
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from pyro_dsvi.distributions.dawson import dawson_integral

_EULER = 0.5772156649015329


class DropoutDivergence(Protocol):
    """A divergence from the log-uniform prior, exact or not."""

    def __call__(self, inverse_alpha: Tensor) -> Tensor:
        """The divergence in nats, elementwise, at 1/α."""
        ...


def exact(inverse_alpha: Tensor) -> Tensor:
    """The divergence itself, to 1e-13 in float64.

    Args:
        inverse_alpha: 1/α = μ²/σ², of any shape.

    Returns:
        Divergence in nats, of the same shape.

    References:
        :cite:p:`hron2018variational`

    Example:
        >>> import torch
        >>> exact(torch.tensor([0.0, 1.0, 100.0]))
        tensor([0.0000, 0.4267, 2.9327])
    """
    return dawson_integral(0.5 * inverse_alpha)


def molchanov(inverse_alpha: Tensor) -> Tensor:
    r"""A fit for all α, wrong by at most 0.0094 nats, and by 0.0137 in the slope in log α.

    .. math:: k_1\,\sigma(-k_2 - k_3 \log\alpha) + \tfrac12 \log(1 + 1/\alpha)

    Args:
        inverse_alpha: 1/α, of any shape.

    Returns:
        Approximate divergence in nats, of the same shape; vanishes at α = ∞.

    References:
        :cite:p:`molchanov2017variational`, equation 14
    """
    log = inverse_alpha.clamp_min(torch.finfo(inverse_alpha.dtype).tiny).log()
    return 0.63576 * torch.sigmoid(1.48695 * log - 1.8732) + 0.5 * torch.log1p(inverse_alpha)


def kingma(inverse_alpha: Tensor) -> Tensor:
    r"""A cubic for α ≤ 1, wrong by at most 0.0404 nats; beyond, constant and wrong by up to 0.39.

    .. math::
        \tfrac12 (\gamma + \log 2 - \log\alpha) - c_1 \alpha - c_2 \alpha^2 - c_3 \alpha^3

    Args:
        inverse_alpha: 1/α, of any shape.

    Returns:
        Approximate divergence in nats, of the same shape; without a gradient where α > 1.

    References:
        :cite:p:`kingma2015local`, equation 14
    """
    inverse = inverse_alpha.clamp_min(1.0)
    alpha = inverse.reciprocal()
    cubic = alpha * (1.16145124 + alpha * (-1.50204118 + alpha * 0.58629921))
    return 0.5 * (_EULER + math.log(2.0)) + 0.5 * inverse.log() - cubic
