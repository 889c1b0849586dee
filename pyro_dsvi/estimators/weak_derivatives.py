r"""The pairs of laws whose difference is the derivative of a family, one coordinate at a time.

======================  ==================================================  ======================
law                     derivative of :math:`\mathbb{E}[f(z)]`              in
======================  ==================================================  ======================
on C values             :math:`f(c)`                                        :math:`p_c`
Poisson                 :math:`f(z + 1) - f(z)`                             rate
Binomial                :math:`z (f(z) - f(z - 1))
                        + (n - z) (f(z + 1) - f(z))`                        probability
Normal                  :math:`(f(\mu + \sigma W) - f(\mu - \sigma W))
                        / (\sigma \sqrt{2 \pi})`                            :math:`\mu`
Normal                  :math:`(f(\mu + \sigma M) - f(z)) / \sigma`         :math:`\sigma`
======================  ==================================================  ======================

W is a Weibull variable of scale :math:`\sqrt 2` and shape 2, M a double-sided Maxwell one.  Both
come from a standard exponential E: :math:`W = \sqrt{2 E}`, and since M times a uniform variable is
a standard Normal one N, M given N is :math:`\mathrm{sign}(N) \sqrt{N^2 + 2 E}`.

References:
    :cite:p:`heidergott2010`, :cite:p:`mohamed2020mcgrad`, :cite:p:`rosca2019measure`
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dsvi.estimators.categories import count_of, each_coordinate
from pyro_dsvi.estimators.law import innermost

Product = tuple[Tensor, Tensor]  # a weight without gradient, and what carries the gradient


class WeakDerivative(ABC):
    """At which other values of a coordinate a family asks for the credit, and what it makes of it.

    The draw itself is one of a pair wherever one of the two laws is the family's own.
    """

    def exponentials(self, coupled: bool) -> int:
        """How many standard exponential variables a coordinate needs."""
        return 0

    @abstractmethod
    def others(self, q: Any, value: Tensor, coupled: bool, noise: Tensor) -> Tensor:
        """Other values of every coordinate, shape ``[m, *value.shape]``."""

    @abstractmethod
    def products(self, q: Any, value: Tensor, credit: Tensor, others: Tensor) -> list[Product]:
        """Weights and scores, from the credits of the draw and of the m other values, in nats.

        Args:
            q: the site's distribution.
            value: the draw, shape ``[*batch, *event, *own]``.
            credit: broadcastable to ``[*batch, *event]``.
            others: shape ``[m, *batch, *event]``.
        """


class PointMasses(WeakDerivative):
    """A law on C values is a sum of point masses: each value but the drawn one is asked about."""

    def others(self, q: Any, value: Tensor, coupled: bool, noise: Tensor) -> Tensor:
        categories = each_coordinate(q, value)
        return categories.value(_all_but(categories.index(value), categories.count))

    def products(self, q: Any, value: Tensor, credit: Tensor, others: Tensor) -> list[Product]:
        categories = each_coordinate(q, value)
        rest = _all_but(categories.index(value), categories.count).movedim(0, -1)
        score = categories.log_probs.gather(-1, rest).exp()
        weight = (others - credit).movedim(0, -1)
        return [(torch.where(score > 0, weight, 0.0), score)]


class PoissonPair(WeakDerivative):
    """One more than a Poisson draw, against a Poisson draw."""

    def others(self, q: Any, value: Tensor, coupled: bool, noise: Tensor) -> Tensor:
        law = innermost(q)
        z = value if coupled else torch.poisson(law.rate.detach().expand(value.shape))
        return (z + 1).unsqueeze(0)

    def products(self, q: Any, value: Tensor, credit: Tensor, others: Tensor) -> list[Product]:
        return [(others[0] - credit, innermost(q).rate.expand(value.shape))]


class BinomialPair(WeakDerivative):
    r"""A draw of one trial less and one more, against that draw.

    A draw z has the odds of z to n - z of being the first or the second of these, so it asks about
    its neighbours on both sides.
    """

    def others(self, q: Any, value: Tensor, coupled: bool, noise: Tensor) -> Tensor:
        most = innermost(q).total_count
        return torch.stack([(value - 1).clamp(min=0), torch.minimum(value + 1, most)])

    def products(self, q: Any, value: Tensor, credit: Tensor, others: Tensor) -> list[Product]:
        law = innermost(q)
        weight = value * (credit - others[0]) + (law.total_count - value) * (others[1] - credit)
        return [(weight, law.probs.expand(value.shape))]


class NormalPairs(WeakDerivative):
    """Weibull variables to both sides for the mean, Maxwell against Normal for the scale.

    A mean or a scale that nothing is learnt of is left out.
    """

    def exponentials(self, coupled: bool) -> int:
        return 2 if coupled else 3

    def others(self, q: Any, value: Tensor, coupled: bool, noise: Tensor) -> Tensor:
        law, others = innermost(q), []
        loc, scale = law.loc.detach(), law.scale.detach()
        of_loc, of_scale = _learnt(law)
        if of_loc:
            up, down = noise[1], noise[1 if coupled else 2]
            others += [loc + scale * (2 * up).sqrt(), loc - scale * (2 * down).sqrt()]
        if of_scale:
            normal = (value - loc) / scale if coupled else torch.randn_like(value)
            maxwell = (normal.square() + 2 * noise[0]).sqrt().copysign(normal)
            others.append(loc + scale * maxwell)
        return torch.stack(others)

    def products(self, q: Any, value: Tensor, credit: Tensor, others: Tensor) -> list[Product]:
        law, products = innermost(q), []
        scale = law.scale.expand(value.shape)
        of_loc, of_scale = _learnt(law)
        if of_loc:
            slope = (others[0] - others[1]) / (scale.detach() * math.sqrt(2 * math.pi))
            products.append((slope, law.loc.expand(value.shape)))
        if of_scale:
            products.append(((others[-1] - credit) / scale.detach(), scale))
        return products


def _learnt(law: Any) -> tuple[bool, bool]:
    """Whether the mean and the scale are asked about; both where nothing is to be learnt."""
    of_loc, of_scale = law.loc.requires_grad, law.scale.requires_grad
    return of_loc or not of_scale, of_scale or not of_loc


def weak_derivative(q: Any) -> WeakDerivative | None:
    """The pairs of a distribution's family; None if there are none here."""
    law = innermost(q)
    if isinstance(law, dist.Binomial):
        return BinomialPair()
    if count_of(q) is not None:
        return PointMasses()
    if isinstance(law, dist.Poisson):
        return PoissonPair()
    return NormalPairs() if isinstance(law, dist.Normal) else None


def own_axes(q: Any) -> int:
    """How many axes one coordinate of a value has: one if it is one-hot."""
    return int(isinstance(innermost(q), dist.OneHotCategorical))


def _all_but(index: Tensor, count: int) -> Tensor:
    """The other numbers below C, shape ``[C - 1, *index.shape]``."""
    steps = torch.arange(1, count, device=index.device)
    return (index + steps.reshape(-1, *(1,) * index.dim())) % count
