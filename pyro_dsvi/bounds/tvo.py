r"""The thermodynamic variational objective: a Riemann sum between the ELBO and log p(x).

.. math:: \log p(x) = \int_0^1 \mathbb{E}_{\pi_\beta}[\ell]\, d\beta, \qquad
    \pi_\beta \propto q^{1 - \beta} p^\beta

with the integrand estimated by the tempered mean :math:`h(\beta) = \sum_k \tilde w_k(\beta) \ell_k`
of K log weights, :math:`\tilde w(\beta) = \mathrm{softmax}(\beta \ell)`:

.. math:: B = \sum_t c_t\, h(\beta_t)

with the :math:`c_t` of the left, right or trapezoidal rule.  Since h rises and its integral is
exactly IWAE's bound of the same log weights, draw by draw

.. math:: B_\text{left} \le \log \tfrac1K \textstyle\sum_k e^{\ell_k} \le B_\text{right}

so the left sum is a lower bound for any K, and tighter than the ELBO; the right one tends to an
upper bound as K grows, and the trapezoid is neither.  All tend to IWAE as the nodes get dense.

B is a smooth function of the log weights, and by itself its gradient is the unbiased one of E[B].
:class:`Covariance` is the estimator of the original paper.

References:
    :cite:p:`masrani2019tvo`, :cite:p:`brekelmans2020bregman`
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from pyro_dsvi.bounds.bound import Bound
from pyro_dsvi.bounds.partition import LogUniform, Partition, possible, tempered_mean
from pyro_dsvi.bounds.weighting import Weighting
from pyro_dsvi.errors import InvalidArgument

_NODES = LogUniform(5)


class Rule(Enum):
    """Where in each interval the integrand is taken: the share of its right end."""

    LEFT = 0.0
    TRAPEZOID = 0.5
    RIGHT = 1.0


@dataclass(frozen=True)
class TVO(Bound):
    """Riemann sum of tempered means of K log weights.

    Args:
        partition: the nodes: ``Points``, ``LogUniform`` or, adaptive, ``Moments``.
        rule: the rule of integration.

    Raises:
        InvalidArgument: if one of them is something else.

    Example:
        >>> import torch
        >>> log_w = torch.tensor([1.0, 3.0]).log()
        >>> TVO(LogUniform(2, first=0.5)).value(log_w)
        tensor(0.6229)
    """

    partition: Partition = _NODES
    rule: Rule = Rule.LEFT

    def __post_init__(self) -> None:
        for name, kind, example in (
            ("partition", Partition, "dsvi.bounds.LogUniform(5, first=0.1)"),
            ("rule", Rule, "dsvi.bounds.Rule.LEFT"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise InvalidArgument(
                    f"TVO: {name}: got {getattr(self, name)!r}; pass e.g. {example}"
                )

    def value(self, log_w: Tensor) -> Tensor:
        nodes = self.partition.nodes(log_w)
        weights = self.weights(nodes)
        total = (weights[1:] * tempered_mean(log_w, nodes[1:])).sum(0)
        if self.rule is Rule.RIGHT:  # what the first node sees has no say
            return total
        return total + weights[0] * log_w.mean(0)

    def weights(self, nodes: Tensor) -> Tensor:
        """Weights of the nodes in the sum, of the same shape; they sum to one."""
        widths, none = nodes.diff(dim=0), torch.zeros_like(nodes[:1])
        right = self.rule.value
        return (1 - right) * torch.cat([widths, none]) + right * torch.cat([none, widths])


@dataclass(frozen=True)
class Covariance(Weighting):
    r"""Masrani's estimator for the guide: the covariance of the integrand with the score.

    .. math:: \nabla_\varphi \mathbb{E}_{\pi_\beta}[\ell]
        = \mathrm{Cov}_{\pi_\beta}[(1 - \beta) \nabla_\varphi \log q, \ell]
        - \mathbb{E}_{\pi_\beta}[\nabla_\varphi \log q]

    estimated by self-normalised importance weights, with the nodes held:

    .. math:: f_k = \sum_t c_t\, \tilde w_k(\beta_t)
        \big[(1 - \beta_t)(\ell_k - h(\beta_t)) - 1\big]

    No draw is differentiated, so discrete sites are served with the others.  It is consistent, as K
    grows, for the gradient of the exact integral's Riemann sum, and neither unbiased for that nor
    for the gradient of the K-sample bound: at one node :math:`\beta = 0` its expectation is
    :math:`1 - 1/K` times the ELBO's gradient.

    Args:
        tvo: the bound whose nodes and rule it has.
    """

    tvo: TVO

    def weight(self, log_w: Tensor) -> Tensor:
        _, beta, c, share, away = self._at_nodes(log_w)
        return (c * share * ((1 - beta) * away - 1)).sum(0)

    def weight_slope(self, log_w: Tensor) -> Tensor:
        _, beta, c, share, away = self._at_nodes(log_w)
        inner = (1 - beta) * away - 1
        rise = 1 - share * (1 + beta * away)
        return (c * share * (beta * (1 - share) * inner + (1 - beta) * rise)).sum(0)

    def _at_nodes(self, log_w: Tensor) -> tuple[Tensor, ...]:
        """Nodes, weights, shares and distances from the tempered mean, ``[T + 1, K, *plates]``."""
        nodes = self.tvo.partition.nodes(log_w.detach())
        beta, c = nodes.unsqueeze(1), self.tvo.weights(nodes).unsqueeze(1)
        share = torch.softmax(torch.where(beta == 0, 0.0, beta * log_w), 1)
        finite = possible(share, log_w)
        return nodes, beta, c, share, finite - (share * finite).sum(1, keepdim=True)
