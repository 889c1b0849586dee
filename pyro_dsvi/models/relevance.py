r"""Gaussian weights under a prior whose scales have been maximised out (ARD).

With the prior :math:`w_j \sim \mathcal N(0, l_j^2)` and the guide
:math:`q(w) = \mathcal N(\mu, \Sigma)`,

.. math::

    \mathrm{KL} = \tfrac12 \Big[ \sum_j \frac{\mu_j^2 + \Sigma_{jj}}{l_j^2} - D
        + \sum_j \log l_j^2 - \log |\Sigma| \Big]

and its derivative in :math:`l_j^2` vanishes at :math:`l_j^2 = \mu_j^2 + \Sigma_{jj}`, its only
minimum.  There the first sum is D, and what is left is

.. math::

    \min_l \mathrm{KL} = \tfrac12 \Big[ \sum_j \log(\mu_j^2 + \Sigma_{jj}) - \log |\Sigma| \Big]
    \;\overset{\Sigma = \operatorname{diag} s^2}{=}\; \tfrac12 \sum_j \log(1 + \mu_j^2 / s_j^2)

A weight that the data do not ask for goes to :math:`\mu_j = 0` and, since it then costs nothing
whatever its variance, to :math:`s_j = 0`: it leaves the model.

References:
    :cite:p:`titsias2014dsvi`, :cite:p:`tipping2001rvm`, :cite:p:`mackay1992interpolation`
"""

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument


class Relevance(torch.nn.Module, ABC):
    """A Gaussian guide of D weights, and its KL from the best ARD prior.

    Args:
        size: D.
        scale: standard deviation of each weight to start from, positive.
    """

    loc: torch.nn.Parameter

    def __init__(self, size: int, *, scale: float = 0.1) -> None:
        super().__init__()
        if size < 1 or not scale > 0:
            raise InvalidArgument(
                f"{type(self).__name__}: size and scale must be positive, got {size} and {scale}"
            )
        self.loc = torch.nn.Parameter(torch.zeros(size))

    @property
    @abstractmethod
    def variances(self) -> Tensor:
        """Marginal variance of each weight, shape ``[D]``."""

    @abstractmethod
    def law(self) -> Any:
        """The guide's distribution, one event of D weights."""

    @abstractmethod
    def variance_of(self, basis: Tensor) -> Tensor:
        """Variance of f = basis · w at each row of ``[N, D]``, shape ``[N]``."""

    @abstractmethod
    def kl(self) -> Tensor:
        """KL from the guide to the best ARD prior, in nats."""

    @abstractmethod
    def keep(self, index: Tensor) -> None:
        """Leave out all weights but these: the marginal of those that stay."""

    @abstractmethod
    def match(self, basis: Tensor, curvature: Tensor, precision: Tensor, step: float) -> None:
        r"""Move the covariance towards its optimum at the given means of the curvature.

        Full steps go to :math:`\Sigma = (\Phi^\top \Lambda \Phi + L^{-2})^{-1}`, or to its diagonal
        counterpart; shorter ones go there in the precision, which are natural gradient steps.

        Args:
            basis: Φ, shape ``[N, D]``.
            curvature: the diagonal of Λ, shape ``[N]``.
            precision: of the prior, :math:`1 / l_j^2`, shape ``[D]``.
            step: in (0, 1].

        References:
            :cite:p:`khan2017cvi`
        """

    @property
    def prior_variances(self) -> Tensor:
        """The prior's variances at which the KL is lowest, without gradient, shape ``[D]``."""
        return (self.loc**2 + self.variances).detach()

    def moments(self, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of f at each row of ``[N, D]``: all that a datum sees."""
        return basis @ self.loc, self.variance_of(basis)


class MeanField(Relevance):
    """Independent weights: 2 D parameters."""

    def __init__(self, size: int, *, scale: float = 0.1) -> None:
        super().__init__(size, scale=scale)
        self.log_scale = torch.nn.Parameter(torch.full((size,), scale).log())

    @property
    def variances(self) -> Tensor:
        return (2 * self.log_scale).exp()

    def law(self) -> Any:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)

    def variance_of(self, basis: Tensor) -> Tensor:
        return basis**2 @ self.variances

    def kl(self) -> Tensor:
        return 0.5 * torch.log1p((self.loc / self.log_scale.exp()) ** 2).sum()

    @torch.no_grad()
    def keep(self, index: Tensor) -> None:
        self.loc = torch.nn.Parameter(self.loc[index])
        self.log_scale = torch.nn.Parameter(self.log_scale[index])

    @torch.no_grad()
    def match(self, basis: Tensor, curvature: Tensor, precision: Tensor, step: float) -> None:
        best = curvature @ basis**2 + precision
        self.log_scale.copy_(-0.5 * torch.lerp(1 / self.variances, best, step).log())


class FullRank(Relevance):
    """Weights with any covariance: D + D (D + 1) / 2 parameters that matter."""

    def __init__(self, size: int, *, scale: float = 0.1) -> None:
        super().__init__(size, scale=scale)
        self.log_diagonal = torch.nn.Parameter(torch.full((size,), scale).log())
        self.below = torch.nn.Parameter(torch.zeros(size, size))

    @property
    def factor(self) -> Tensor:
        """The covariance's Cholesky factor, shape ``[D, D]``."""
        return self.below.tril(-1) + self.log_diagonal.exp().diag()

    @property
    def variances(self) -> Tensor:
        return (self.factor**2).sum(-1)

    def law(self) -> Any:
        return dist.MultivariateNormal(self.loc, scale_tril=self.factor)

    def variance_of(self, basis: Tensor) -> Tensor:
        return ((basis @ self.factor) ** 2).sum(-1)

    def kl(self) -> Tensor:
        return 0.5 * (self.loc**2 + self.variances).log().sum() - self.log_diagonal.sum()

    @torch.no_grad()
    def keep(self, index: Tensor) -> None:
        factor = self.factor[index]
        self.loc = torch.nn.Parameter(self.loc[index])
        # The marginal's own factor: rows of the old one, made square and triangular.
        self._become(torch.linalg.qr(factor.T).R.T)

    @torch.no_grad()
    def match(self, basis: Tensor, curvature: Tensor, precision: Tensor, step: float) -> None:
        scale = precision.rsqrt()
        scaled = basis * scale
        best = scaled.T @ (curvature.unsqueeze(-1) * scaled)
        best.diagonal().add_(1)
        if step < 1:
            old = self.factor / scale.unsqueeze(-1)
            best = torch.lerp(torch.cholesky_inverse(old), best, step)
        # Σ = S (R Rᵀ)⁻¹ S; R⁻ᵀ is upper triangular, and made lower by a rotation.
        upper = torch.linalg.solve_triangular(
            torch.linalg.cholesky(best).T, torch.eye(len(best)).to(best), upper=True
        )
        self._become(torch.linalg.qr((scale.unsqueeze(-1) * upper).T).R.T)

    def _become(self, factor: Tensor) -> None:
        """Take a factor's values, the signs of its columns aside."""
        factor = factor * factor.diagonal().sign()
        self.log_diagonal = torch.nn.Parameter(factor.diagonal().log())
        self.below = torch.nn.Parameter(factor.tril(-1))
