r"""Where a thermodynamic integral is evaluated: :math:`0 = \beta_0 < \dots < \beta_T = 1`.

The integrand at :math:`\beta`, estimated from K log weights, is their tempered mean

.. math:: h(\beta) = \sum_k \tilde w_k(\beta)\,\ell_k, \qquad
    \tilde w(\beta) = \mathrm{softmax}(\beta \ell)

which rises with :math:`\beta`, and its integral over [0, 1] is the importance-weighted bound of
these very weights: :math:`\int_0^1 h = \log \frac1K \sum_k e^{\ell_k}`.

References:
    :cite:p:`masrani2019tvo`, :cite:p:`brekelmans2020bregman`
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument, check_whole

_HALVINGS = 26
_NEWTON = 2  # each step doubles the order to which the nodes are differentiable


class Partition(ABC):
    """Chooses the nodes.  Subclasses are frozen dataclasses."""

    @abstractmethod
    def nodes(self, log_w: Tensor) -> Tensor:
        """The nodes from 0 to 1.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Nodes, shape ``[T + 1, *plates]`` or ``[T + 1, 1, ...]``, differentiable in the log
            weights where they depend on them.
        """


@dataclass(frozen=True)
class Points(Partition):
    """Fixed nodes.

    Args:
        betas: the nodes between 0 and 1, both left out, in rising order.

    Raises:
        InvalidArgument: if they do not rise from above 0 to below 1.

    Example:
        >>> import torch
        >>> Points((0.1, 0.5)).nodes(torch.zeros(4))
        tensor([0.0000, 0.1000, 0.5000, 1.0000])
    """

    betas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        ends = (0.0, *self.betas, 1.0)
        if not all(a < b for a, b in itertools.pairwise(ends)):
            raise InvalidArgument(
                f"Points: betas must rise and lie between 0 and 1, got {self.betas}"
            )

    def nodes(self, log_w: Tensor) -> Tensor:
        nodes = torch.tensor((0.0, *self.betas, 1.0), dtype=log_w.dtype, device=log_w.device)
        return nodes.reshape(-1, *(1,) * (log_w.dim() - 1))


@dataclass(frozen=True)
class LogUniform(Partition):
    r"""Fixed nodes, evenly spaced in :math:`\log \beta` from the first one after 0 up to 1.

    Args:
        intervals: T; 1 has the nodes 0 and 1 alone.
        first: the first node after 0, between 0 and 1.

    Raises:
        InvalidArgument: if ``intervals`` is no whole number of at least 1, or ``first`` not
            between 0 and 1.

    Example:
        >>> import torch
        >>> LogUniform(3, first=0.01).nodes(torch.zeros(4))
        tensor([0.0000, 0.0100, 0.1000, 1.0000])
    """

    intervals: int
    first: float = 0.1

    def __post_init__(self) -> None:
        check_whole("LogUniform: intervals", self.intervals, 1)
        if not 0 < self.first < 1:
            raise InvalidArgument(f"LogUniform: first must be in (0, 1), got {self.first!r}")

    def nodes(self, log_w: Tensor) -> Tensor:
        gaps = self.intervals - 1
        inner = tuple(math.exp(math.log(self.first) * (1 - i / gaps)) for i in range(gaps))
        return Points(inner).nodes(log_w)


@dataclass(frozen=True)
class Moments(Partition):
    r"""Adaptive nodes: the integrand rises by the same amount from each one to the next.

    .. math:: h(\beta_t) = h(0) + \tfrac{t}{T} (h(1) - h(0))

    found anew for the log weights of each step and plate element, by bisection.  The nodes are a
    smooth function of the log weights and are differentiated as such, so that the bound's gradient
    is its own.  Log weights that are all alike leave any nodes right; they are then even.

    Args:
        intervals: T.

    Raises:
        InvalidArgument: if ``intervals`` is no whole number of at least 1.
    """

    intervals: int

    def __post_init__(self) -> None:
        check_whole("Moments: intervals", self.intervals, 1)

    def nodes(self, log_w: Tensor) -> Tensor:
        ends = log_w.new_tensor([0.0, 1.0]).reshape(2, *(1,) * (log_w.dim() - 1))
        low, high = ends.expand(2, *log_w.shape[1:])
        share = torch.arange(1, self.intervals, dtype=log_w.dtype, device=log_w.device)
        share = (share / self.intervals).reshape(-1, *(1,) * (log_w.dim() - 1))
        with torch.no_grad():
            inner = self._bisect(log_w.detach(), share)
        for _ in range(_NEWTON):
            inner = self._refine(log_w, share, inner)
        return torch.cat([low.unsqueeze(0), inner, high.unsqueeze(0)])

    def _bisect(self, log_w: Tensor, share: Tensor) -> Tensor:
        first, last = log_w.mean(0), tempered_mean(log_w, log_w.new_ones(1))[0]
        target = first + share * (last - first)
        low = torch.zeros_like(target)
        width = 1.0
        for _ in range(_HALVINGS):
            width /= 2
            middle = low + width
            low = torch.where(tempered_mean(log_w, middle) < target, middle, low)
        found = low + width / 2
        return torch.where((last - first) > _spread(log_w), found, share)

    def _refine(self, log_w: Tensor, share: Tensor, inner: Tensor) -> Tensor:
        """A step of Newton's method, through which the nodes' dependence on the weights passes."""
        first, last = log_w.mean(0), tempered_mean(log_w, log_w.new_ones(1))[0]
        tempered = torch.softmax(inner.unsqueeze(1) * log_w, 1)
        mean = (tempered * log_w).sum(1)
        rise = (tempered * (log_w - mean.unsqueeze(1)).square()).sum(1)
        off = mean - (first + share * (last - first))
        steep = (rise > _spread(log_w)) & ((last - first) > _spread(log_w)).expand_as(rise)
        return torch.where(steep, inner - off / torch.where(steep, rise, 1.0), inner)


def tempered_mean(log_w: Tensor, beta: Tensor) -> Tensor:
    r"""The integrand :math:`h(\beta)` at positive nodes.

    Args:
        log_w: log weights in nats, shape ``[K, *plates]``.
        beta: nodes, shape ``[T, *plates]`` or ``[T, 1, ...]``.

    Returns:
        Tempered means in nats, shape ``[T, *plates]``.
    """
    share = torch.softmax(_spread_out(beta, log_w) * log_w, 1)
    return (share * possible(share, log_w)).sum(1)


def possible(share: Tensor, log_w: Tensor) -> Tensor:
    """The log weights, with zero for an infinite one that has no share."""
    return torch.where((share == 0) & log_w.isinf(), 0.0, log_w)


def _spread_out(beta: Tensor, log_w: Tensor) -> Tensor:
    """Nodes as ``[T, 1, *plates]``."""
    beta = beta.reshape(beta.shape + (1,) * (log_w.dim() - beta.dim()))
    return beta.unsqueeze(1)


def _spread(log_w: Tensor) -> float:
    return 100 * torch.finfo(log_w.dtype).eps
