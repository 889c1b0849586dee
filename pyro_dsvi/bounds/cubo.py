r"""The chi upper bound, for a gap with two sides.

.. math:: C_n = \frac1n \log \frac1K \sum_k e^{n \ell_k}, \qquad
    \log p(x) \le \frac1n \log \mathbb{E}_q[e^{n \ell}] \quad (n \ge 1)

The inequality is one of the limit of many particles: the logarithm is concave, so that the
estimate from K of them falls short of its limit on average, and may fall below log p(x).  It is a
diagnosis beside a lower bound, and says little where a few weights rule; :math:`e^{n C_n}` is
unbiased for :math:`\mathbb{E}_q[e^{n\ell}]`.

An upper bound is lowered by the guide and raised by the model: max over theta of min over phi.

References:
    :cite:p:`dieng2017chi`
"""

from dataclasses import dataclass, field

from torch import Tensor

from pyro_dsvi.bounds.bound import Bound
from pyro_dsvi.bounds.pursuit import Pursuit
from pyro_dsvi.bounds.renyi import Renyi
from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True)
class CUBO(Renyi):
    """Upper bound of order n, in the limit of many particles.

    Args:
        n: the order, at least 1; at 1 it is IWAE's estimate, whose limit is log p(x) itself.

    Raises:
        InvalidArgument: if ``n`` is less than 1 or not finite.

    Example:
        >>> import torch
        >>> CUBO(2).value(torch.tensor([1.0, 3.0]).log())
        tensor(0.8047)
    """

    alpha: float = field(init=False, repr=False)
    n: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.n < float("inf"):
            raise InvalidArgument(f"CUBO: n must be a finite number of at least 1, got {self.n!r}")
        object.__setattr__(self, "alpha", 1.0 - self.n)

    @property
    def guide(self) -> Pursuit:
        return Lowered(Renyi(self.alpha))


@dataclass(frozen=True)
class Lowered(Bound):
    """An upper bound as the guide sees it, which lowers it.

    Args:
        upper: the upper bound.
    """

    upper: Bound

    def value(self, log_w: Tensor) -> Tensor:
        return -self.upper.value(log_w)

    def slope(self, log_w: Tensor) -> Tensor:
        return -self.upper.slope(log_w)

    def gain(self, log_w: Tensor) -> Tensor:
        return self.upper.gain(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        return -self.upper.curvature(log_w)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        return -self.upper.leave_one_out(log_w)
