r"""Gaussian dropout noise: a weight times a Gaussian of mean one.

.. math:: w = \mu\,(1 + \sqrt\alpha\,\varepsilon) \sim N(\mu, \alpha\mu^2)

References:
    :cite:p:`kingma2015local`
"""

from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor


class MultiplicativeNormal(Normal):
    r"""A Gaussian whose standard deviation is a multiple of its mean.

    It is a :class:`pyro.distributions.Normal`, and serves wherever one does.  α may be shared by
    many elements; a divergence that depends on α alone is then computed once for all of them.

    Args:
        loc: mean μ.
        log_alpha: :math:`\log\alpha`, in a shape that broadcasts to that of ``loc``.
        validate_args: as for any distribution.

    Example:
        >>> import torch
        >>> q = MultiplicativeNormal(torch.tensor([1.0, -2.0]), torch.tensor(0.0))
        >>> q.scale
        tensor([1., 2.])
    """

    def __init__(
        self, loc: Tensor, log_alpha: Tensor, *, validate_args: bool | None = None
    ) -> None:
        # A variance that underflows would turn a weight that has died into NaN.
        least = torch.finfo(loc.dtype).tiny ** 0.5
        self.log_alpha = log_alpha
        super().__init__(
            loc, (loc.abs() * (0.5 * log_alpha).exp()).clamp_min(least), validate_args=validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MultiplicativeNormal":
        new: Any = self._get_checked_instance(MultiplicativeNormal, _instance)
        new = Normal.expand(self, batch_shape, new)
        new.log_alpha = self.log_alpha
        return new
