r"""Sum over the k most probable values, and sample from the rest.

With T the k most probable values, m the mass that they leave, and v drawn from the others,

.. math:: \nabla \mathbb{E}[f(z)] = \mathbb{E}\Big[\sum_{s \in T} p(s)\, (f(s) - b)\,
    \nabla \log p(s) + m\, (f(v) - b)\, \nabla \log p(v)\Big]

for every b that does not depend on v; here it is the mean of f over T.  The site's own draw is v,
unless it lies in T: it then serves as one of the sum, and v is drawn besides.

References:
    :cite:p:`liu2019rao`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.errors import check_whole
from pyro_dsvi.estimators.categories import gumbel, objection_to_event, whole_event
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate


@dataclass(frozen=True)
class SumAndSample(Estimator):
    """The score function Rao-Blackwellised, for Bernoulli, (OneHot)Categorical and Binomial sites.

    It asks for the credit at k other values.  An event counts as one value, so it may have no more
    than ``max_support`` joint ones.  Where there are k + 1 values or fewer, all are visited, and
    the gradient is the exact sum.

    Args:
        k: the most probable values, over which the sum goes; at least 1.
        max_support: the most joint values of an event that are tabulated.

    Raises:
        InvalidArgument: if ``k`` or ``max_support`` cannot work.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> estimator = dsvi.SumAndSample(2)
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": estimator})

    References:
        :cite:p:`liu2019rao`
    """

    k: int
    max_support: int = 1024

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("SumAndSample: k", self.k, 1)
        check_whole("SumAndSample: max_support", self.max_support, 2)

    def objection(self, q: Any) -> str | None:
        return objection_to_event(q, self.max_support)

    def sample(self, log_p: Tensor) -> Tensor:
        """Draw from log weights ``[*batch, C]``, shape ``[*batch]``."""
        return (log_p + gumbel(log_p)).argmax(-1)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        categories = whole_event(q, value)
        log_p, drawn = categories.finite, categories.index(value).unsqueeze(-1)
        top = log_p.topk(min(self.k, categories.count - 1), dim=-1).indices
        of_rest = self.sample(log_p.scatter(-1, top, -torch.inf)).unsqueeze(-1)
        in_top = top == drawn
        # The drawn value leaves its place to the sample of the rest, or is that sample itself.
        others = torch.where(in_top, of_rest, top)
        summed = in_top.any(-1, keepdim=True)
        numbers = torch.cat([drawn, others], -1)
        sampled = torch.cat([~summed, in_top], -1)
        return Counterfactual(
            categories.value(others.movedim(-1, 0)), noise=(numbers, sampled, top)
        )

    def surrogate(self, visit: Visit) -> Surrogate:
        categories = whole_event(visit.q, visit.value)
        assert visit.counterfactual is not None  # as asked for
        numbers, sampled, top = visit.counterfactual.noise
        score = categories.log_probs.gather(-1, numbers)
        p = score.detach().exp()
        rest = categories.log_probs.detach().scatter(-1, top, -torch.inf).logsumexp(-1).exp()
        mass = torch.where(sampled, rest.unsqueeze(-1), p)
        # What cannot be drawn is of no weight, however bad it would have been.
        credit = torch.where(p > 0, categories.credits(visit).movedim(0, -1), 0.0)
        weight = torch.where(sampled, 0.0, p)
        mean = (weight * credit).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
        return Surrogate.sum((mass * (credit - mean), score))
