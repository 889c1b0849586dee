r"""A bound is one smooth function of K log weights.

.. math:: B(\ell_1, \dots, \ell_K), \qquad \ell_k = \log p(x, z_k) - \log q(z_k \mid x)

Everything that an estimator needs of a bound is its value, its first derivative (the *slope*),
the *gain* on a pathwise gradient once the guide's densities are frozen, and the baseline that
the other particles provide.  Only the value has to be written; the rest has a default.

The model climbs the bound, and so does the guide, unless the bound says what else it follows.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.bounds.pursuit import Pursuit, diagonal
from pyro_dsvi.errors import InvalidArgument


class Bound(Pursuit):
    r"""How K log weights become one number.

    A subclass is a frozen dataclass and defines :meth:`value`.  It must satisfy
    :math:`B(\ell + c) = B(\ell) + c`: a term that no latent reaches then passes through the bound
    unchanged.

    Attributes:
        additive: the bound is the plain average of the log weights, so that a site's credit may
            be cut down to the costs the site influences.
        min_particles: the fewest particles with which the bound makes sense.
    """

    additive: ClassVar[bool] = False
    min_particles: ClassVar[int] = 1

    @property
    def guide(self) -> Pursuit:
        """What the guide follows, where that is not the bound itself."""
        return self

    @property
    def num_particles(self) -> int | None:
        """The one number of particles that the bound is made for; None if it takes any."""
        return None

    @abstractmethod
    def value(self, log_w: Tensor) -> Tensor:
        """The bound's estimate.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            The bound in nats, shape ``[*plates]``.
        """

    def slope(self, log_w: Tensor) -> Tensor:
        r"""First derivatives :math:`B'_k = \partial B / \partial \ell_k`.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Derivatives of the same shape, without gradient; they sum to one over K.
        """
        with torch.enable_grad():
            leaf = log_w.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.value(leaf).sum(), leaf)
        return slope

    def gain(self, log_w: Tensor) -> Tensor:
        r"""Factor on a pathwise gradient once the guide's densities are frozen.

        .. math:: g_k = 1 - \partial_k^2 B / \partial_k B

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Factors of the same shape, without gradient.

        References:
            :cite:p:`tucker2019dreg`
        """
        return 1 - self.curvature(log_w) / self.slope(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        r"""Second derivatives :math:`\partial_k^2 B`, by autograd if not written.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.

        Returns:
            Derivatives of the same shape, without gradient.
        """
        return diagonal(self._differentiable_slope, log_w)

    def _differentiable_slope(self, log_w: Tensor) -> Tensor:
        return torch.autograd.grad(self.value(log_w).sum(), log_w, create_graph=True)[0]

    def density(self, log_w: Tensor) -> Tensor:
        return self.slope(log_w)

    def path(self, log_w: Tensor, factor: Any = 0.0) -> Tensor:
        slope = self.slope(log_w)
        if not isinstance(factor, Tensor) and factor == 0:
            return slope
        return slope - factor * self.curvature(log_w)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        r"""The bound with :math:`\ell_k` replaced by the mean of the others, for each k.

        It does not depend on particle k, so subtracting it from the credit of particle k leaves
        the gradient's expectation as it was.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]`` with K of at least 2.

        Returns:
            Baselines in nats, same shape.

        Raises:
            InvalidArgument: if K is 1.

        References:
            :cite:p:`kool2019buy`, :cite:p:`mnih2016vimco`
        """
        others = mean_of_others(log_w)
        mine = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device)
        mine = mine.reshape(mine.shape + (1,) * (log_w.dim() - 1))
        # [K, K, *plates]: axis 0 runs over the particles of the bound, axis 1 over the one left out
        return self.value(torch.where(mine, others, log_w.unsqueeze(1)))

    def replaced(self, log_w: Tensor, others: Tensor, particles: Tensor) -> Tensor:
        r"""The bound with :math:`\ell_k` replaced by another value, for one k at a time.

        Args:
            log_w: log weights in nats, shape ``[K, *plates]``.
            others: values to put in the place of one, in nats, shape ``[A, R, *plates]``.
            particles: the particle k that each of the R stands for, shape ``[R]``.

        Returns:
            The bound in nats, shape ``[A, R, *plates]``, differentiable in ``others``.
        """
        each = torch.arange(len(log_w), device=log_w.device)
        mine = each.unsqueeze(1) == particles.to(log_w.device)
        mine = mine.reshape(len(log_w), 1, len(particles), *(1,) * (log_w.dim() - 1))
        return self.value(torch.where(mine, others, log_w[:, None, None]))


def exclusive_sum(log_w: Tensor, logarithmic: bool) -> Tensor:
    """Sum of all entries but one along axis 0, in log space if asked, without subtracting.

    Subtracting one entry from the total would turn an infinite log weight into NaN for the
    very particle that has it, and would cancel badly in log space.
    """
    if len(log_w) < 2:
        raise InvalidArgument(
            "leave-one-out needs at least 2 particles, got 1; "
            "set num_particles >= 2 or choose another baseline"
        )
    empty = torch.full_like(log_w[:1], -torch.inf if logarithmic else 0.0)
    accumulate = torch.logcumsumexp if logarithmic else torch.cumsum
    join = torch.logaddexp if logarithmic else torch.add
    before = torch.cat([empty, accumulate(log_w[:-1], 0)])
    after = torch.cat([accumulate(log_w[1:].flip(0), 0).flip(0), empty])
    return join(before, after)


def mean_of_others(log_w: Tensor) -> Tensor:
    """Arithmetic mean over the other particles, shape ``[K, *plates]``."""
    return exclusive_sum(log_w, logarithmic=False) / (len(log_w) - 1)
