r"""DisARM, or U2G: ARM with its noise summed out, from one pair of antithetic draws.

Two bits from one uniform number, :math:`b = 1[u > \sigma(-\alpha)]` and
:math:`\tilde b = 1[1 - u > \sigma(-\alpha)]`, give

.. math:: \nabla_{\alpha_i} \mathbb{E}[f(b)] = \mathbb{E}\Big[\tfrac12 \big(f(b) - f(\tilde b)\big)
    (-1)^{\tilde b_i}\, 1[b_i \ne \tilde b_i]\, \sigma(|\alpha_i|)\Big]

A categorical value is reached by a path of bits through a binary tree: :math:`\tilde z` starts
along the path of z with antithetic bits, and is on its own once it has left it.  Bits that lie on
neither path, and those on one path alone, are summed out.  What is left, m and :math:`\tilde m`
being the mass of the two branches where the paths part, is

.. math:: \tfrac12 \big(f(z) - f(\tilde z)\big)\, \nabla \Big[\rho \log \frac{m}{\tilde m}
    + \log \frac{p(z)}{m} - \log \frac{p(\tilde z)}{\tilde m}\Big], \qquad
    \rho = \frac{\max(m, \tilde m)}{m + \tilde m}

in which rho is held; it is zero where the values agree.

References:
    :cite:p:`dong2020disarm`, :cite:p:`yin2020u2g`, :cite:p:`dong2021coupled`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.estimators.categories import count_of, each_coordinate, gumbel, not_categorical
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate


@dataclass(frozen=True)
class DisARM(Estimator):
    """Antithetic pairs, for Bernoulli, Categorical, OneHotCategorical and Binomial sites.

    It asks for the credit at one other value, in which all coordinates of an event, and all
    elements of a plate, have their antithetic partners at once.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.DisARM()})

    References:
        :cite:p:`dong2020disarm`, :cite:p:`yin2020u2g`, :cite:p:`dong2021coupled`
    """

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False

    def objection(self, q: Any) -> str | None:
        return not_categorical(q) if count_of(q) is None else None

    def partner(self, log_p: Tensor, index: Tensor) -> Tensor:
        """Draw the antithetic partner of a number.

        Args:
            log_p: log probabilities in nats, finite, shape ``[*elements, C]``.
            index: the number drawn, shape ``[*elements]``.

        Returns:
            Numbers, shape ``[*elements]``.
        """
        if log_p.shape[-1] == 2:  # an antithetic bit differs where it can
            odds = (log_p[..., 1] - log_p[..., 0]) * (1 - 2 * index)
            return torch.where(torch.rand_like(odds) < odds.exp(), 1 - index, index)
        law = law_of_partner(log_p.exp(), index)
        return (law.log() + gumbel(law)).argmax(-1)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        categories = each_coordinate(q, value)
        index = categories.index(value)
        partner = self.partner(categories.finite, index)
        return Counterfactual(categories.value(partner).unsqueeze(0), noise=(index, partner))

    def surrogate(self, visit: Visit) -> Surrogate:
        categories = each_coordinate(visit.q, visit.value)
        credit, other = categories.credits(visit)
        assert visit.counterfactual is not None  # as asked for
        index, partner = visit.counterfactual.noise
        half = torch.where(index == partner, 0.0, (credit - other) / 2)
        log_p, log_m = _where_they_part(categories.log_probs, index, partner)
        at_parting = log_m[0] - log_m[1]
        rho = torch.sigmoid(at_parting.detach().abs())
        if categories.count == 2:  # nothing comes after
            return Surrogate.sum((half * rho, at_parting))
        thereafter = (log_p[0] - log_m[0]) - (log_p[1] - log_m[1])
        return Surrogate.sum((half * rho, at_parting), (half, thereafter))


def _where_they_part(
    log_probs: Tensor, index: Tensor, partner: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Log probabilities of both numbers, and log masses of their branches where the paths part."""
    count = log_probs.shape[-1]
    both = index.unsqueeze(-1), partner.unsqueeze(-1)
    log_p = [log_probs.gather(-1, one).squeeze(-1) for one in both]
    if count == 2:
        return log_p, log_p
    numbers = torch.arange(count, device=index.device)
    levels = _levels(count)
    parting = _height(*both, levels).clamp(min=1)
    branches = (_height(one, numbers, levels) < parting for one in both)
    log_m = [torch.where(inside, log_probs, -torch.inf).logsumexp(-1) for inside in branches]
    return log_p, log_m


def law_of_partner(p: Tensor, index: Tensor) -> Tensor:
    """Law of the antithetic partner, given the number drawn.

    Args:
        p: probabilities, shape ``[*elements, C]``.
        index: the number drawn, shape ``[*elements]``.

    Returns:
        Probabilities, shape ``[*elements, C]``.
    """
    numbers = torch.arange(p.shape[-1], device=p.device)
    levels = _levels(p.shape[-1])
    height = _height(index.unsqueeze(-1), numbers, levels)
    # At each level the mass on the other side, and that on the side of the number drawn.
    other = p.new_zeros(*p.shape[:-1], levels + 1).scatter_add(-1, height, p)
    own = other.cumsum(-1).clamp(min=torch.finfo(p.dtype).tiny)
    other, own = other[..., 1:], own[..., :-1]
    stays = (1 - other / own).clamp(min=0)
    one = torch.ones_like(p[..., :1])
    from_top = torch.cat([one, stays.flip(-1)], -1).cumprod(-1).flip(-1)
    leaves = torch.cat([one, 1 / torch.maximum(other, own)], -1)
    return (from_top * leaves).gather(-1, height) * torch.where(height == 0, 1.0, p)


def _levels(count: int) -> int:
    return max(1, (count - 1).bit_length())


def _height(one: Tensor, other: Tensor, levels: int) -> Tensor:
    """Levels of the least branch that holds both numbers: branches share their leading bits."""
    differing = one ^ other
    return torch.stack([(differing >> level) > 0 for level in range(levels)]).sum(0)
