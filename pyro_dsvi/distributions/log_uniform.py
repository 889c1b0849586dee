r"""The scale-invariant prior of variational dropout, :math:`p(w) \propto 1/|w|`.

It is uniform in :math:`\log|w|`, so it is not changed by rescaling w, and has no normaliser.  A
constant factor moves the bound by a constant; the one chosen here makes the divergence of every
zero-mean Gaussian vanish, and so every divergence nonnegative:

.. math:: \log p(w) = -\log|w| - \tfrac12 (\gamma + 1) - \log 2 - \tfrac12 \log\pi

with Euler's γ.  A sampled log density and the closed form then estimate the same number.

References:
    :cite:p:`kingma2015local`, :cite:p:`molchanov2017variational`,
    :cite:p:`hron2018variational`
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import register_kl

from pyro_dsvi.distributions.dropout_divergence import DropoutDivergence, exact
from pyro_dsvi.distributions.improper import Improper
from pyro_dsvi.distributions.multiplicative_normal import MultiplicativeNormal

_CONSTANT = -0.5 * (0.5772156649015329 + 1) - math.log(2) - 0.5 * math.log(math.pi)


class LogUniform(Improper):
    """The improper prior with a density inverse to |w|.

    Its Kullback-Leibler divergence from a Gaussian depends on α = σ²/μ² alone and is registered
    with torch, so ``analytic_kl=True`` finds it.

    Args:
        divergence: what stands for that divergence: the exact one, or one of the published
            approximations, :func:`molchanov` or :func:`kingma`.
        batch_shape: shape of the elements.
        validate_args: as for any distribution.

    Raises:
        IncompatibleSite: when it is sampled.

    References:
        :cite:p:`kingma2015local`

    Example:
        >>> import torch, pyro.distributions as dist
        >>> q = dist.Normal(torch.tensor([0.0, 1.0]), 1.0)
        >>> torch.distributions.kl_divergence(q, LogUniform())
        tensor([0.0000, 0.4267])
    """

    def __init__(
        self,
        divergence: DropoutDivergence = exact,
        *,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.divergence = divergence
        super().__init__(batch_shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, up to the infinite normaliser; infinite at 0."""
        value = torch.as_tensor(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        return (_CONSTANT - value.abs().log()).expand(shape)


@register_kl(Normal, LogUniform)
@register_kl(torch.distributions.Normal, LogUniform)
def _kl_normal(q: Any, p: LogUniform) -> Tensor:
    value = p.divergence((q.loc / q.scale).square())
    return value.expand(torch.broadcast_shapes(value.shape, p.batch_shape))


@register_kl(MultiplicativeNormal, LogUniform)
def _kl_multiplicative(q: MultiplicativeNormal, p: LogUniform) -> Tensor:
    value = p.divergence((-q.log_alpha).exp())
    return value.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
