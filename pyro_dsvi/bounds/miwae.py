r"""The mean of m importance-weighted bounds of k particles each.

.. math:: B = \frac1m \sum_{i=1}^m \log \frac1k \sum_{j=1}^k e^{\ell_{ij}}

Particles of one group lie side by side: :math:`\ell_{ij}` is entry :math:`(i-1)k + j`.  Between
k = 1, the evidence lower bound, and m = 1, IWAE, it trades tightness for the signal in the guide's
gradient.

References:
    :cite:p:`rainforth2018tighter`
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.bounds.bound import Bound, exclusive_sum, mean_of_others
from pyro_dsvi.errors import InvalidArgument, check_whole


@dataclass(frozen=True)
class MIWAE(Bound):
    """Mean over m groups of the log mean weight of k particles; a lower bound.

    Args:
        m: number of groups.
        k: particles in each.

    Raises:
        InvalidArgument: if ``m`` or ``k`` is no whole number of at least 1, or the particles are
            not m times k.

    Example:
        >>> import torch
        >>> MIWAE(2, 2).value(torch.tensor([1.0, 3.0, 4.0, 4.0]).log())
        tensor(1.0397)
    """

    m: int
    k: int

    def __post_init__(self) -> None:
        for name, number in (("m", self.m), ("k", self.k)):
            check_whole(f"{type(self).__name__}: {name}", number, 1)

    @property
    def num_particles(self) -> int:
        return self.m * self.k

    def value(self, log_w: Tensor) -> Tensor:
        return (torch.logsumexp(self._groups(log_w), 1) - math.log(self.k)).sum(0) / self.m

    def slope(self, log_w: Tensor) -> Tensor:
        return self._shares(log_w) / self.m

    def gain(self, log_w: Tensor) -> Tensor:
        return self._shares(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        share = self._shares(log_w)
        return share * (1 - share) / self.m

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        others = mean_of_others(log_w).unflatten(0, (self.m, self.k))
        groups = self._groups(log_w)
        if self.k > 1:
            # [k, m, *plates], so that the sum runs over the members of each group
            rest = exclusive_sum(groups.transpose(0, 1), logarithmic=True).transpose(0, 1)
            others = torch.logaddexp(rest, others)
        whole = torch.logsumexp(groups, 1)
        if self.m > 1:
            others = others + exclusive_sum(whole, logarithmic=False).unsqueeze(1)
        return others.flatten(0, 1) / self.m - math.log(self.k)

    def _shares(self, log_w: Tensor) -> Tensor:
        return torch.softmax(self._groups(log_w.detach()), 1).flatten(0, 1)

    def _groups(self, log_w: Tensor) -> Tensor:
        """The log weights as ``[m, k, *plates]``."""
        if len(log_w) != self.m * self.k:
            raise InvalidArgument(
                f"{type(self).__name__}: {self.m} groups of {self.k} need "
                f"{self.m * self.k} particles, got {len(log_w)}"
            )
        return log_w.unflatten(0, (self.m, self.k))
