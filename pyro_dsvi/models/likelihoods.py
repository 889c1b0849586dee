r"""Likelihoods of one Gaussian number per datum, and their expectations.

With :math:`f_n \sim \mathcal N(m_n, v_n)`, the expected log likelihood and its derivatives are

.. math::

    E_n = \mathbb{E} \log p(y_n \mid f_n), \qquad
    \partial E_n / \partial m_n = \mathbb{E}\, \partial_f \log p, \qquad
    -2\, \partial E_n / \partial v_n = -\mathbb{E}\, \partial^2_f \log p

(Bonnet's and Price's theorems), all of them integrals over the line.  For a Gaussian likelihood
they are closed; for a Bernoulli one they are sums over the nodes of Gauss-Hermite quadrature.

References:
    :cite:p:`opper2009gaussian`
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_dsvi.errors import InvalidArgument


class Likelihood(torch.nn.Module, ABC):
    """The law of y given f, and what is expected of it where f is Gaussian."""

    @abstractmethod
    def law(self, f: Tensor) -> Any:
        """Distribution of y given f, as a Pyro distribution."""

    @abstractmethod
    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        """Expected log likelihood of each datum, in nats, for f ~ N(mean, variance)."""

    @abstractmethod
    def slope_and_curvature(
        self, mean: Tensor, variance: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Expected first derivative of log p in f, and minus the second, of each datum."""

    @abstractmethod
    def predictive(self, mean: Tensor, variance: Tensor) -> Any:
        """Law of y with f ~ N(mean, variance) integrated out."""

    def learn(self, mean: Tensor, variance: Tensor, y: Tensor) -> None:
        """Set the likelihood's own parameters to where the expectation is highest."""
        return


class BernoulliLikelihood(Likelihood):
    """Classes 0 and 1 with log odds f.

    Args:
        nodes: nodes of the quadrature.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(self, nodes: int = 32) -> None:
        super().__init__()
        if nodes < 1:
            raise InvalidArgument(f"BernoulliLikelihood: nodes must be at least 1, got {nodes}")
        where, weight = np.polynomial.hermite_e.hermegauss(nodes)
        self.register_buffer("nodes", torch.tensor(where), persistent=False)
        self.register_buffer(
            "weights", torch.tensor(weight / math.sqrt(2 * math.pi)), persistent=False
        )

    def law(self, f: Tensor) -> Any:
        return dist.Bernoulli(logits=f)

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        return y * mean - softplus(self._values(mean, variance)) @ self.weights.to(mean)

    def slope_and_curvature(
        self, mean: Tensor, variance: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        p, weights = self._values(mean, variance).sigmoid(), self.weights.to(mean)
        return y - p @ weights, (p * (1 - p)) @ weights

    def predictive(self, mean: Tensor, variance: Tensor) -> Any:
        p = self._values(mean, variance).sigmoid() @ self.weights.to(mean)
        return dist.Bernoulli(probs=p.clamp(0, 1))  # rounding may take a sum of weights past one

    def _values(self, mean: Tensor, variance: Tensor) -> Tensor:
        return mean.unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * self.nodes.to(mean)


class GaussianLikelihood(Likelihood):
    """Numbers with mean f and a common noise, which is learnt.

    Args:
        noise: standard deviation to start from, positive.
    """

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        if not noise > 0:
            raise InvalidArgument(f"GaussianLikelihood: noise must be positive, got {noise}")
        self.log_noise = torch.nn.Parameter(torch.tensor(math.log(noise)))

    @property
    def noise(self) -> Tensor:
        """Standard deviation of the noise."""
        return self.log_noise.exp()

    def law(self, f: Tensor) -> Any:
        return dist.Normal(f, self.noise)

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        square = (y - mean) ** 2 + variance
        return -0.5 * (square / self.noise**2 + math.log(2 * math.pi)) - self.log_noise

    def slope_and_curvature(
        self, mean: Tensor, variance: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        precision = 1 / self.noise**2
        return precision * (y - mean), precision.expand_as(mean)

    def predictive(self, mean: Tensor, variance: Tensor) -> Any:
        return dist.Normal(mean, (variance + self.noise**2).sqrt())

    @torch.no_grad()
    def learn(self, mean: Tensor, variance: Tensor, y: Tensor) -> None:
        square = ((y - mean) ** 2 + variance).mean()
        # Data that are met exactly would have no noise, and the likelihood no maximum.
        self.log_noise.copy_(0.5 * square.clamp_min(1e-12).log())
