r"""ARM and ARSM: one Dirichlet draw decides a value, and others once two entries are swapped.

With :math:`\pi \sim \mathrm{Dirichlet}(1_C)` the number :math:`z = \arg\min_i \pi_i / p_i` has law
p.  Swapping two entries leaves the law of pi as it is, so the score of every swapped draw will do,
and so will their mean; what each swap gets on average over c serves as the baseline:

.. math:: \nabla_{\alpha_c} \mathbb{E}[f(z)] = \mathbb{E}\Big[\sum_j \Big(f(z^{c \leftrightarrow j})
    - \tfrac1C \sum_m f(z^{m \leftrightarrow j})\Big) \big(\tfrac1C - \pi_j\big)\Big]

For two values, with u the entry of zero, this is ARM:
:math:`\mathbb{E}[(f(1[u > \sigma(-\alpha)]) - f(1[u < \sigma(\alpha)]))(u - \frac12)]`.  All
coordinates of an event, and all elements of a plate, are swapped at once.

References:
    :cite:p:`yin2019arm`, :cite:p:`yin2019arsm`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.estimators.categories import count_of, each_coordinate, not_categorical
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate

MOST = 32  # values of a coordinate: 496 swaps


@dataclass(frozen=True)
class ARM(Estimator):
    """Augment, REINFORCE, merge: for Bernoulli, Categorical, OneHotCategorical and Binomial sites.

    It asks for the credit at C (C - 1) / 2 other values, however many coordinates there are: one
    for bits, three for three categories, and more than 32 are refused.  :class:`DisARM` asks for
    one always.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.ARM()})

    References:
        :cite:p:`yin2019arm`, :cite:p:`yin2019arsm`
    """

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False

    def objection(self, q: Any) -> str | None:
        count = count_of(q)
        if count is None:
            return not_categorical(q)
        if count <= MOST:
            return None
        return (
            f"on {count} values it asks for the credit at {count * (count - 1) // 2} others, and "
            f"more than {MOST} values are too many; use dsvi.estimators.DisARM() here"
        )

    def noise(self, log_p: Tensor, index: Tensor) -> Tensor:
        r"""The Dirichlet draw behind a number, from its law given the number.

        The least of C exponential variables of rates p is itself exponential, whichever it was; by
        how much the others exceed it are exponential variables of their own rates.

        Args:
            log_p: log probabilities in nats, finite, shape ``[*elements, C]``.
            index: the number drawn, shape ``[*elements]``.

        Returns:
            Points of the simplex, shape ``[*elements, C]``.
        """
        least = torch.empty_like(log_p[..., :1]).exponential_()
        excess = torch.empty_like(log_p).exponential_().scatter(-1, index.unsqueeze(-1), 0.0)
        rates = excess + least * log_p.exp()  # each variable times its rate
        return rates / rates.sum(-1, keepdim=True)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        categories = each_coordinate(q, value)
        log_p = categories.finite
        noise = self.noise(log_p, categories.index(value))
        swapped = noise[..., _swaps(categories.count, noise.device)]  # [*elements, A, C]
        index = (swapped.log() - log_p.unsqueeze(-2)).argmin(-1).movedim(-1, 0)
        return Counterfactual(categories.value(index), noise=noise)

    def surrogate(self, visit: Visit) -> Surrogate:
        categories = each_coordinate(visit.q, visit.value)
        assert visit.counterfactual is not None  # as asked for
        noise, count = visit.counterfactual.noise, categories.count
        pairs = _numbers_of_pairs(count, noise.device)
        credits = categories.credits(visit).movedim(0, -1)[..., pairs]  # [..., c, j]
        centred = credits - credits.mean(-2, keepdim=True)
        weight = (centred * (1 / count - noise).unsqueeze(-2)).sum(-1)
        score = categories.log_probs
        # An impossible value's score is infinite, and its weight is zero on average.
        return Surrogate.sum((weight, torch.where(score > -torch.inf, score, 0.0)))


def _pairs(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All pairs i < j of C numbers."""
    i, j = torch.triu_indices(count, count, offset=1, device=device)
    return i, j


def _swaps(count: int, device: torch.device) -> Tensor:
    """Each swap of two of C entries as a permutation, shape ``[A, C]``."""
    i, j = _pairs(count, device)
    rows = torch.arange(len(i), device=device)
    table = torch.arange(count, device=device).repeat(len(i), 1)
    table[rows, i], table[rows, j] = j, i
    return table


def _numbers_of_pairs(count: int, device: torch.device) -> Tensor:
    """Where the credit of each swap stands, shape ``[C, C]``; that of no swap comes first."""
    i, j = _pairs(count, device)
    table = torch.zeros(count, count, dtype=torch.long, device=device)
    table[i, j] = table[j, i] = torch.arange(1, len(i) + 1, device=device)
    return table
