r"""A mixture of the evidence lower bound and the importance-weighted one.

.. math:: B = \beta\,\frac1K \sum_k \ell_k + (1 - \beta) \log \frac1K \sum_k e^{\ell_k}

References:
    :cite:p:`rainforth2018tighter`
"""

from dataclasses import dataclass

from torch import Tensor

from pyro_dsvi.bounds.bound import Bound
from pyro_dsvi.bounds.evidence import Evidence
from pyro_dsvi.bounds.iwae import IWAE
from pyro_dsvi.errors import InvalidArgument

_ELBO, _IWAE = Evidence(), IWAE()


@dataclass(frozen=True)
class CIWAE(Bound):
    """Combined bound: the share beta of the ELBO, the rest of IWAE; a lower bound.

    Args:
        beta: weight of the ELBO, in [0, 1].

    Raises:
        InvalidArgument: if ``beta`` is not in [0, 1].

    Example:
        >>> import torch
        >>> CIWAE(0.5).value(torch.tensor([1.0, 3.0]).log())
        tensor(0.6212)
    """

    beta: float

    def __post_init__(self) -> None:
        if isinstance(self.beta, bool) or not 0 <= self.beta <= 1:
            raise InvalidArgument(f"CIWAE: beta must be in [0, 1], got {self.beta!r}")

    def value(self, log_w: Tensor) -> Tensor:
        return self._mixed(_ELBO.value(log_w), _IWAE.value(log_w))

    def slope(self, log_w: Tensor) -> Tensor:
        return self._mixed(_ELBO.slope(log_w), _IWAE.slope(log_w))

    def gain(self, log_w: Tensor) -> Tensor:
        if self.beta == 0:  # an impossible particle has no slope then
            return _IWAE.gain(log_w)
        return 1 - self.curvature(log_w) / self.slope(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        return (1 - self.beta) * _IWAE.curvature(log_w)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        return self._mixed(_ELBO.leave_one_out(log_w), _IWAE.leave_one_out(log_w))

    def _mixed(self, elbo: Tensor, iwae: Tensor) -> Tensor:
        if self.beta == 0:  # an infinite ELBO has no say then
            return iwae
        return self.beta * elbo + (1 - self.beta) * iwae
