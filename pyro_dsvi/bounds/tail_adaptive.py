r"""The tail-adaptive f-divergence: paths weighed by the ranks of the log weights.

.. math:: \nabla_\varphi = \mathbb{E}\Big[\sum_k \gamma_k\,
    \nabla_z \ell_k\, \nabla_\varphi z_k\Big], \qquad
    \gamma_k \propto \Big(\tfrac1K \#\{j : \ell_j \ge \ell_k\}\Big)^\beta

The share of draws whose weight is at least one's own has a law that no model changes, so the
weights have finite moments however heavy the tail of :math:`p / q`.  Equal weights have equal
shares.  The model climbs IWAE's bound.

It is an update by paths alone: the f whose divergence it lowers depends on the draws, and what a
score function would multiply is not defined.

References:
    :cite:p:`wang2018tail`
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_dsvi.bounds.iwae import IWAE
from pyro_dsvi.bounds.pursuit import Pursuit
from pyro_dsvi.bounds.weighting import Weighting
from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True)
class TailWeights(Weighting):
    """Weights of paths, by rank; they sum to one.

    Args:
        beta: power of the tail probability; below zero the largest weights count most.

    Raises:
        InvalidArgument: if ``beta`` is not finite.

    Example:
        >>> import torch
        >>> TailWeights().weight_slope(torch.tensor([0.0, 3.0, 3.0, 1.0]))
        tensor([0.1579, 0.3158, 0.3158, 0.2105])
    """

    beta: float = -1.0
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.beta):
            raise InvalidArgument(f"TailWeights: beta must be finite, got {self.beta!r}")

    def weight(self, log_w: Tensor) -> Tensor:
        raise InvalidArgument(
            "TailWeights: no weight of a density is defined, only of paths; reparameterise every "
            "site, with frozen=True"
        )

    def weight_slope(self, log_w: Tensor) -> Tensor:
        powers = self._tail(log_w) ** self.beta
        return powers / powers.sum(0)

    def _tail(self, log_w: Tensor) -> Tensor:
        """The share of particles whose log weight is at least one's own."""
        last = log_w.movedim(0, -1).contiguous()
        below = torch.searchsorted(last.sort(-1).values, last)
        return (1 - below.to(log_w) / len(log_w)).movedim(-1, 0)


@dataclass(frozen=True)
class TailAdaptive(IWAE):
    """IWAE for the model, tail-adaptive weights for the guide's paths.

    Args:
        beta: power of the tail probability.

    Raises:
        InvalidArgument: if ``beta`` is not finite.

    Example:
        >>> TailAdaptive().guide
        TailWeights(beta=-1.0)
    """

    beta: float = -1.0

    def __post_init__(self) -> None:
        TailWeights(self.beta)  # which says what is wrong

    @property
    def guide(self) -> Pursuit:
        return TailWeights(self.beta)
