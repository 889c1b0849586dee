r"""What the guide follows: a bound, or weights on its own log density.

Whatever it is, it sends the guide

.. math:: \mathbb{E}\Big[\sum_k (c_k - d_k)\,\nabla_\varphi \log q_\varphi(z_k)\Big]

with a *credit* :math:`c_k` that the estimators of the sites send back, by the score or by the
path, and a weight :math:`d_k` on the live density :math:`-\log q_\varphi(z_k)` inside the log
weight.  For a bound both come of B itself: :math:`c_k = B`, :math:`d_k = \partial_k B`.  The wake
phase of reweighted wake-sleep has :math:`c_k = 0`, :math:`d_k = -\tilde w_k`.

A density may enter the log weight with a factor s (its scale or mask).  Where the densities are
frozen, the path through :math:`z_k` carries both, by the integration by parts of doubly
reparameterised gradients:

.. math:: \partial_k c_k - s\,\partial_k d_k

References:
    :cite:p:`tucker2019dreg`
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Pursuit(ABC):
    """What the guide follows.

    Attributes:
        weighs: whether the weight of a live density is defined; else only paths are.
    """

    weighs: ClassVar[bool] = True

    @abstractmethod
    def density(self, log_w: Tensor) -> Tensor:
        r"""Weight :math:`d_k` of the gradient of :math:`-\log q(z_k)` in the guide's parameters.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Weights of the same shape, without gradient.
        """

    @abstractmethod
    def path(self, log_w: Tensor, factor: Any = 0.0) -> Tensor:
        r"""Weight of the gradient of :math:`\ell_k` in the draw :math:`z_k`.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.
            factor: that of a frozen density in the log weight; 0 where densities are live.

        Returns:
            Weights of the same shape, without gradient.
        """


def diagonal(function: Callable[[Tensor], Tensor], log_w: Tensor) -> Tensor:
    """Derivative of each of a function's K values by its own argument, ``[K, *plates]``."""
    with torch.enable_grad():
        leaf = log_w.detach().requires_grad_()
        rows = function(leaf)
        if not rows.requires_grad:
            return torch.zeros_like(log_w)
        each = [
            torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0][k]
            for k, row in enumerate(rows)
        ]
    return torch.stack(each)
