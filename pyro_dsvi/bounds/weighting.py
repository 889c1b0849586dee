r"""A guide that follows weights: maximum likelihood of its own draws, each with a weight.

.. math:: \mathbb{E}\Big[\sum_k f_k(\ell)\,\nabla_\varphi \log q_\varphi(z_k)\Big]

Nothing passes through the draws and no draw answers for anything; only densities are weighted, so
that discrete and continuous sites are served alike.  With frozen densities a reparameterised site
gets the same in expectation by its path, weighed by :math:`\partial f_k / \partial \ell_k`.  Such
updates need not be the gradient of any function.

References:
    :cite:p:`bornschein2015rws`, :cite:p:`tucker2019dreg`
"""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from pyro_dsvi.bounds.pursuit import Pursuit, diagonal


class Weighting(Pursuit):
    """How much each draw's log density counts.  A subclass is a frozen dataclass."""

    @abstractmethod
    def weight(self, log_w: Tensor) -> Tensor:
        r"""Weights :math:`f_k`.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Weights of the same shape, differentiable.
        """

    def weight_slope(self, log_w: Tensor) -> Tensor:
        r"""Derivatives :math:`\partial f_k / \partial \ell_k`, by autograd if not written.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Derivatives of the same shape, without gradient.
        """
        return diagonal(self.weight, log_w)

    def density(self, log_w: Tensor) -> Tensor:
        return -self.weight(log_w.detach())

    def path(self, log_w: Tensor, factor: Any = 0.0) -> Tensor:
        return factor * self.weight_slope(log_w.detach())
