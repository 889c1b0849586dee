r"""The evidence lower bound: the mean of the log weights.

.. math:: B = \frac1K \sum_k \ell_k, \qquad \mathbb{E}[B] \le \log p(x)

It is the one bound that is additive over costs, so every site's credit can be cut down to the
costs which that site influences.

References:
    :cite:p:`kingma2014vae`, :cite:p:`titsias2014dsvi`
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_dsvi.bounds.bound import Bound, mean_of_others


@dataclass(frozen=True)
class Evidence(Bound):
    """The ELBO, averaged over K independent particles.

    Example:
        >>> import torch
        >>> Evidence().value(torch.tensor([1.0, 3.0]))
        tensor(2.)
    """

    additive: ClassVar[bool] = True

    def value(self, log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    def slope(self, log_w: Tensor) -> Tensor:
        return torch.full_like(log_w, 1 / len(log_w))

    def gain(self, log_w: Tensor) -> Tensor:
        return torch.ones_like(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        return torch.zeros_like(log_w)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        return mean_of_others(log_w)
