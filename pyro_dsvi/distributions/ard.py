r"""Automatic relevance determination: a Gaussian prior whose scale is at its best for each weight.

.. math::
    \min_\tau \mathrm{KL}\big(N(\mu, \sigma^2) \,\|\, N(0, \tau^2)\big)
    = \tfrac12 \log\big(1 + \tfrac{\mu^2}{\sigma^2}\big) = \tfrac12 \log\big(1 + \tfrac1\alpha\big),
    \qquad \tau^2 = \mu^2 + \sigma^2

What empirical Bayes does to one scale a weight, carried out in closed form.  Like the divergence
from the log-uniform prior it depends on α alone and pushes it up, but it belongs to a proper prior,
of which there is one for each guide.

References:
    :cite:p:`titsias2014dsvi`, :cite:p:`kharitonov2018ard`
"""

from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import register_kl

from pyro_dsvi.distributions.improper import Improper
from pyro_dsvi.distributions.multiplicative_normal import MultiplicativeNormal
from pyro_dsvi.errors import IncompatibleSite


class ARD(Improper):
    """The zero-mean Gaussian prior that is best for the guide, weight by weight.

    It is known through its divergence alone, which ``analytic_kl=True`` uses.

    Args:
        batch_shape: shape of the elements.
        validate_args: as for any distribution.

    Raises:
        IncompatibleSite: when it is sampled, or asked for a density.

    References:
        :cite:p:`titsias2014dsvi`

    Example:
        >>> import torch, pyro.distributions as dist
        >>> q = dist.Normal(torch.tensor([0.0, 1.0]), 1.0)
        >>> torch.distributions.kl_divergence(q, ARD())
        tensor([0.0000, 0.3466])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        raise IncompatibleSite(
            "ARD() has no density of its own, since its scale is chosen for the guide; use "
            "analytic_kl=True and a Gaussian guide, such as dsvi.guides.AutoVariationalDropout"
        )


@register_kl(Normal, ARD)
@register_kl(torch.distributions.Normal, ARD)
def _kl_normal(q: Any, p: ARD) -> Tensor:
    value = 0.5 * torch.log1p((q.loc / q.scale).square())
    return value.expand(torch.broadcast_shapes(value.shape, p.batch_shape))


@register_kl(MultiplicativeNormal, ARD)
def _kl_multiplicative(q: MultiplicativeNormal, p: ARD) -> Tensor:
    value = 0.5 * torch.log1p((-q.log_alpha).exp())
    return value.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
