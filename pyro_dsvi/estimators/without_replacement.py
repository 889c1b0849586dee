r"""Sampling without replacement: k different values, and the order in which they came summed out.

The site's draw is the first of k, the others are drawn from what is left.  With S the set of all,
:math:`p^{D \setminus T}(U)` the chance that draws from what T leaves are U in any order, and
:math:`R(S, s) = p^{D \setminus s}(S \setminus s) / p^D(S)` the leave-one-out ratio,

.. math:: \nabla \mathbb{E}[f(z)] = \mathbb{E}\Big[\sum_{s \in S} \nabla p(s)\, R(S, s)
    \Big(f(s) - \sum_{s' \in S} p(s')\, R^{D \setminus s}(S, s')\, f(s')\Big)\Big]

where :math:`R^{D \setminus s}(S, s') = p^{D \setminus \{s, s'\}}(S \setminus \{s, s'\}) /
p^{D \setminus s}(S \setminus s)` is one for s' = s.  The inner sum has the mean of f whatever s is,
so it is a baseline at no further cost.

References:
    :cite:p:`kool2020without`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.errors import check_whole
from pyro_dsvi.estimators.categories import (
    Categories,
    gumbel,
    objection_to_event,
    whole_event,
)
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate

MOST = 10  # the chances of all subsets are computed: 2 ** k of them


@dataclass(frozen=True)
class WithoutReplacement(Estimator):
    """The unordered-set estimator, for Bernoulli, (OneHot)Categorical and Binomial sites.

    It asks for the credit at k - 1 other values.  An event counts as one value, so it may have no
    more than ``max_support`` joint ones.  Where there are k values or fewer, all are visited, and
    the gradient is the exact sum.

    Args:
        k: values looked at, the drawn one included; from 2 to 10.
        max_support: the most joint values of an event that are tabulated.

    Raises:
        InvalidArgument: if ``k`` or ``max_support`` cannot work.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> estimator = dsvi.WithoutReplacement(3)
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": estimator})

    References:
        :cite:p:`kool2020without`
    """

    k: int
    max_support: int = 1024

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("WithoutReplacement: k", self.k, 2, MOST)
        check_whole("WithoutReplacement: max_support", self.max_support, 2)

    def objection(self, q: Any) -> str | None:
        return objection_to_event(q, self.max_support)

    def others(self, log_p: Tensor, first: Tensor, count: int) -> Tensor:
        """Draw further numbers without replacement, once the first is drawn.

        Args:
            log_p: log probabilities in nats, finite, shape ``[*batch, C]``.
            first: the number drawn, shape ``[*batch]``.
            count: how many more.

        Returns:
            Numbers, shape ``[*batch, count]``.
        """
        keys = (log_p + gumbel(log_p)).scatter(-1, first.unsqueeze(-1), -torch.inf)
        return keys.topk(count, dim=-1).indices

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        categories = whole_event(q, value)
        first = categories.index(value)
        count = min(self.k, categories.count) - 1
        others = self.others(categories.finite, first, count)
        numbers = torch.cat([first.unsqueeze(-1), others], -1)
        return Counterfactual(categories.value(others.movedim(-1, 0)), noise=numbers)

    def surrogate(self, visit: Visit) -> Surrogate:
        categories = whole_event(visit.q, visit.value)
        assert visit.counterfactual is not None  # as asked for
        return unordered_set(categories, visit.counterfactual.noise, categories.credits(visit))


def unordered_set(categories: Categories, numbers: Tensor, credits: Tensor) -> Surrogate:
    """The estimate from a set of values and their credits.

    Args:
        categories: the law, of shape ``[*batch, C]``.
        numbers: the k values drawn, in any order, shape ``[*batch, k]``.
        credits: credit at each in nats, broadcastable to ``[k, *batch]``.
    """
    one, two = leave_out(categories.finite, numbers)
    score = categories.log_probs.gather(-1, numbers)
    p = score.detach().exp()
    # What cannot be drawn is of no weight, however bad it would have been.
    credit = torch.where(p > 0, credits.movedim(0, -1), 0.0)
    baseline = (two * (p * credit).unsqueeze(-2)).sum(-1)
    return Surrogate.sum((p * one * (credit - baseline), score))


def leave_out(log_p: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    r"""Leave-one-out ratios of the first and second order.

    With h(T) the chance that draws which have begun with T go on to complete S, in any order, it is
    :math:`h(T) = \sum_{s \in S \setminus T} \frac{p(s)}{1 - p(T)}\, h(T \cup s)` and h(S) = 1: one
    sum of positive terms for each subset, in log space.

    Args:
        log_p: log probabilities in nats, finite, shape ``[*batch, C]``.
        numbers: the set S, shape ``[*batch, k]``.

    Returns:
        :math:`R(S, s)`, shape ``[*batch, k]``, and :math:`R^{D \setminus s}(S, s')`, shape
        ``[*batch, k, k]``, with ones on the diagonal.
    """
    k = numbers.shape[-1]
    own = log_p.gather(-1, numbers)
    rest = log_p.scatter(-1, numbers, -torch.inf).logsumexp(-1, keepdim=True)
    full = 2**k - 1
    log_h: dict[int, Tensor] = {full: torch.zeros_like(own[..., 0])}
    for begun in range(full - 1, -1, -1):  # T as a number in binary
        left = [s for s in range(k) if not begun >> s & 1]
        mass = torch.cat([own[..., left], rest], -1).logsumexp(-1)
        ways = [own[..., s] - mass + log_h[begun | 1 << s] for s in left]
        log_h[begun] = torch.stack(ways).logsumexp(0)
    one = torch.stack([log_h[1 << s] for s in range(k)], -1)
    pairs = [torch.stack([log_h[1 << s | 1 << t] for t in range(k)], -1) for s in range(k)]
    two = torch.stack(pairs, -2)
    return (one - log_h[0].unsqueeze(-1)).exp(), (two - one.unsqueeze(-1)).exp()
