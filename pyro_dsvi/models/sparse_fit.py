r"""Maximises the bound of a sparse linear model, step by step.

An iteration has three parts.  The first two cannot lower the bound with the scales maximised out:

1. *The guide*, at given prior scales: a Newton step of the mean in the expected curvature and a
   natural gradient step of the covariance, halved until the bound rises.  It is concave in the mean
   here, and the steps solve the Gaussian likelihood in one.
2. *The scales*, by MacKay's update :math:`l_j^2 = \mu_j^2 / \gamma_j`,
   :math:`\gamma_j = 1 - \Sigma_{jj} / l_j^2`, which drives a useless scale to zero at a geometric
   rate; where the bound falls, by :math:`l_j^2 = \mu_j^2 + \Sigma_{jj}`, which cannot lower it but
   is slow.
3. *Pruning*: weights are left out where the bound does not fall by more than the tolerance.  A
   weight that is left out is the limit :math:`\mu_j, s_j, l_j \to 0`, which is approached but
   never reached, so that a little may be lost by taking it.

References:
    :cite:p:`mackay1992interpolation`, :cite:p:`tipping2001rvm`, :cite:p:`khan2017cvi`
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.models.likelihoods import Likelihood
from pyro_dsvi.models.relevance import Relevance

_STEPS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
_SMALL = 1e-14  # relative to the largest scale: as good as zero
# μ² / s² below which leaving weights out is tried, the most first: at every iteration, where little
# can be taken too early, and where the bound has settled.
_HURRIED = (1e-3, 1e-6)
_SETTLED = (1.0, 0.1, 1e-2, *_HURRIED)


@dataclass(frozen=True)
class Fit:
    """How a fit went.

    Attributes:
        bounds: the bound in nats after each iteration.
        converged: whether it settled before the last one allowed.
    """

    bounds: tuple[float, ...]
    converged: bool

    @property
    def bound(self) -> float:
        """The bound at the end, in nats."""
        return self.bounds[-1]


@torch.no_grad()
def fit(
    basis: Tensor,
    y: Tensor,
    relevance: Relevance,
    likelihood: Likelihood,
    *,
    most_iterations: int,
    tolerance: float,
) -> tuple[Fit, Tensor]:
    """Fit the guide (and the likelihood's own parameters) in place.

    Args:
        basis: basis functions at all data, shape ``[N, D]``.
        y: outputs, shape ``[N]``.
        relevance: the guide, changed in place.
        likelihood: the likelihood, changed in place.
        most_iterations: when to stop.
        tolerance: change of the bound in nats a datum that is none.

    Returns:
        How it went, and the columns of the basis that are left.
    """
    ascent = _Ascent(basis, y, relevance, likelihood)
    bounds: list[float] = []
    settled = 0
    for _ in range(most_iterations):
        ascent.guide()
        ascent.scales()
        ascent.noise()
        before = bounds[-1] if bounds else -math.inf
        still = abs(ascent.bound() - before) < tolerance * len(y)
        pruned = ascent.prune(_SETTLED if still else _HURRIED, tolerance * len(y))
        bounds.append(ascent.bound())
        settled = settled + 1 if still and not pruned else 0
        if settled == 3:
            break
    return Fit(tuple(bounds), settled == 3), ascent.left


@torch.no_grad()
def prune(
    basis: Tensor, y: Tensor, relevance: Relevance, likelihood: Likelihood, *, tolerance: float
) -> Tensor:
    """Leave out weights, again and again, where the bound does not fall by more than a tolerance.

    Args:
        basis: basis functions at all data, shape ``[N, D]``.
        y: outputs, shape ``[N]``.
        relevance: the guide, changed in place.
        likelihood: the likelihood.
        tolerance: in nats a datum.

    Returns:
        The columns of the basis that are left.
    """
    ascent = _Ascent(basis, y, relevance, likelihood)
    while ascent.prune(_SETTLED, tolerance * len(y)):
        continue
    return ascent.left


class _Ascent:
    """The state between the parts of an iteration."""

    def __init__(
        self, basis: Tensor, y: Tensor, relevance: Relevance, likelihood: Likelihood
    ) -> None:
        self.basis, self.y = basis, y
        self.relevance, self.likelihood = relevance, likelihood
        self.left = torch.arange(basis.shape[-1], device=basis.device)
        # Each basis function is given the same say at first, whatever its size.
        self.prior = 1 / (basis**2).mean(0).clamp_min(1e-12)

    def bound(self) -> float:
        """The bound with the scales maximised out."""
        return float(self._likelihood() - self.relevance.kl())

    def _likelihood(self) -> Tensor:
        mean, variance = self.relevance.moments(self.basis)
        return self.likelihood.expected_log_prob(mean, variance, self.y).sum()

    def _bound_at_prior(self) -> float:
        """The bound at the prior's scales as they are, up to a constant in the guide."""
        q = self.relevance
        second = q.loc**2 + q.variances
        return float(self._likelihood() - q.kl() - 0.5 * (second / self.prior - second.log()).sum())

    def guide(self) -> None:
        """One step of mean and covariance at the prior's scales."""
        q, old = self.relevance, copy.deepcopy(self.relevance.state_dict())
        start = self._bound_at_prior()
        slope, curvature = self.likelihood.slope_and_curvature(*q.moments(self.basis), self.y)
        scaled = self.basis * self.prior.sqrt()
        matrix = scaled.T @ (curvature.unsqueeze(-1) * scaled)
        matrix.diagonal().add_(1)
        gradient = scaled.T @ slope - q.loc / self.prior.sqrt()
        newton = torch.cholesky_solve(gradient.unsqueeze(-1), torch.linalg.cholesky(matrix))
        newton = self.prior.sqrt() * newton.squeeze(-1)
        for step in _STEPS:
            q.loc.add_(step * newton)
            _, curvature = self.likelihood.slope_and_curvature(*q.moments(self.basis), self.y)
            q.match(self.basis, curvature, 1 / self.prior, step)
            if self._bound_at_prior() >= start:
                return
            q.load_state_dict(old)

    def scales(self) -> None:
        """MacKay's update of the prior where it pays, else the sure one."""
        q = self.relevance
        sure, start = q.prior_variances, self.bound()
        free = (1 - q.variances / self.prior).clamp(1e-12, 1)
        bold = q.loc**2 / free
        old = copy.deepcopy(q.state_dict())
        self.prior = self._floored(bold)
        self.guide()
        if self.bound() < start:
            q.load_state_dict(old)
            self.prior = self._floored(sure)
            self.guide()

    def _floored(self, prior: Tensor) -> Tensor:
        return prior.clamp_min(_SMALL * float(prior.max())).clamp_min(1e-300)

    def noise(self) -> None:
        """The likelihood's own parameters."""
        self.likelihood.learn(*self.relevance.moments(self.basis), self.y)

    def prune(self, thresholds: Sequence[float], allowed: float) -> bool:
        """Leave out weights where the bound falls by no more than allowed; whether any were."""
        for threshold in thresholds:
            ratio = self.relevance.loc**2 / self.relevance.variances
            stay = (ratio > threshold).nonzero().squeeze(-1)
            if len(stay) == 0 or len(stay) == len(ratio):
                continue
            start, trial = self.bound(), copy.deepcopy(self.relevance)
            trial.keep(stay)
            mean, variance = trial.moments(self.basis[:, stay])
            terms = self.likelihood.expected_log_prob(mean, variance, self.y)
            if float(terms.sum() - trial.kl()) >= start - allowed:
                self.relevance.keep(stay)
                self.basis, self.prior, self.left = (
                    self.basis[:, stay],
                    self.prior[stay],
                    self.left[stay],
                )
                return True
        return False
