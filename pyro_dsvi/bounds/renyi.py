r"""Rényi's variational bound of order alpha.

.. math:: B = \frac{1}{1 - \alpha} \log \frac1K \sum_k e^{(1 - \alpha) \ell_k}

With weights :math:`\tilde w_k = \mathrm{softmax}((1-\alpha)\ell)_k` its slope is
:math:`\tilde w_k`, and the frozen form weighs a pathwise gradient by
:math:`\alpha \tilde w_k + (1-\alpha) \tilde w_k^2`.

References:
    :cite:p:`li2016renyi`
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.bounds.bound import Bound, exclusive_sum, mean_of_others
from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True)
class Renyi(Bound):
    """Rényi bound; ``alpha=0`` is IWAE, ``alpha -> 1`` tends to the evidence lower bound.

    Its expectation is at most log p(x) for ``alpha >= 0``.  For negative orders it tends to an
    upper bound as K grows.

    Args:
        alpha: the order, finite and different from 1.

    Raises:
        InvalidArgument: if ``alpha`` is 1 or not finite.

    Example:
        >>> import torch
        >>> Renyi(0.5).value(torch.zeros(4))
        tensor(0.)
    """

    alpha: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise InvalidArgument(f"Renyi: alpha must be finite, got {self.alpha}")
        if self.alpha == 1:
            raise InvalidArgument("Renyi: alpha = 1 is the ELBO; use dsvi.bounds.Evidence()")

    def value(self, log_w: Tensor) -> Tensor:
        power = 1 - self.alpha
        return (torch.logsumexp(power * log_w, 0) - math.log(len(log_w))) / power

    def slope(self, log_w: Tensor) -> Tensor:
        return torch.softmax((1 - self.alpha) * log_w.detach(), 0)

    def gain(self, log_w: Tensor) -> Tensor:
        return self.alpha + (1 - self.alpha) * self.slope(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        share = self.slope(log_w)
        return (1 - self.alpha) * share * (1 - share)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        power = 1 - self.alpha
        others = exclusive_sum(power * log_w, logarithmic=True)
        total = torch.logaddexp(others, power * mean_of_others(log_w))
        return (total - math.log(len(log_w))) / power
