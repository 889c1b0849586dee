"""One view of all laws on a few values: log probabilities, and a table of the values.

A Bernoulli is a law on two values, a Binomial on ``total_count + 1``; of a categorical the values
are numbers or one-hot vectors.  Seen coordinate by coordinate (:func:`each_coordinate`) an event
of D bits is D laws on two values; seen as a whole (:func:`whole_event`) it is one on 2 ** D.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.law import innermost

_ONE_HOT = dist.OneHotCategorical
_IMPOSSIBLE = -1e4  # finite in place of the log of 0: differences of such numbers are no NaN


@dataclass(frozen=True, eq=False)
class Categories:
    """Laws on C values each.

    Attributes:
        log_probs: in nats, shape ``[*elements, C]``, with the gradient in the parameters.
        support: the C values, shape ``[C, *own]``; a one-hot vector has one axis of its own.
    """

    log_probs: Tensor
    support: Tensor

    @property
    def count(self) -> int:
        """The number C of values."""
        return len(self.support)

    @property
    def finite(self) -> Tensor:
        """Log probabilities without gradient, a large negative number in place of infinity."""
        return self.log_probs.detach().clamp(min=_IMPOSSIBLE)

    def value(self, index: Tensor) -> Tensor:
        """The values of given numbers, ``[...]`` to ``[..., *own]``."""
        return self.support[index]

    def index(self, value: Tensor) -> Tensor:
        """The numbers of given values, ``[..., *own]`` to ``[...]``."""
        own = self.support.dim() - 1
        if own == 0:
            return value.long()
        same = value.unsqueeze(-1 - own) == self.support
        return same.flatten(-own).all(-1).int().argmax(-1)

    def credits(self, visit: Visit) -> Tensor:
        """Credit at the drawn value and then at each one asked about, in nats.

        Returns:
            Shape ``[1 + A, ...]``, broadcastable to ``[1 + A, *elements]``.
        """
        both = visit.per_value(torch.cat([visit.credit.unsqueeze(0), visit.credits]))
        return both.reshape(both.shape[: both.dim() - (self.support.dim() - 1)])


def count_of(q: Any) -> int | None:
    """How many values a coordinate of the distribution has; None if not a few, or only one."""
    law, count = innermost(q), None
    if isinstance(law, dist.Bernoulli):
        count = 2
    elif isinstance(law, dist.Categorical | _ONE_HOT):
        count = law.logits.shape[-1]
    elif isinstance(law, dist.Binomial) and bool((law.total_count == law.total_count.max()).all()):
        count = int(law.total_count.max()) + 1
    return count if count is not None and count > 1 else None


def coordinates_of(q: Any) -> int:
    """How many coordinates an event of the distribution has; a one-hot vector counts as one."""
    size = math.prod(q.event_shape)
    return size // q.event_shape[-1] if _is_one_hot(q) else size


def not_categorical(q: Any) -> str:
    """What to say of a distribution that has no few values."""
    law = innermost(q)
    name = type(law).__name__
    if isinstance(law, dist.Binomial) and law.total_count.min() < law.total_count.max():
        name = "Binomial of more than one total_count"
    elif isinstance(law, dist.Binomial | dist.Categorical | _ONE_HOT):
        name = f"{name} of a single value"
    return (
        f"{name} has no short table of values, as Bernoulli, Categorical, OneHotCategorical and "
        "Binomial of one total_count have; use dsvi.estimators.ScoreFunction() here"
    )


def objection_to_event(q: Any, most: int) -> str | None:
    """Why the joint values of an event cannot be tabulated; None if they can."""
    count = count_of(q)
    if count is None:
        return not_categorical(q)
    D = coordinates_of(q)
    if count**D <= most:
        return None
    return (
        f"an event of {D} coordinates with {count} values each has {count}**{D} joint values, "
        f"more than max_support={most}; use dsvi.estimators.DisARM() here"
    )


def each_coordinate(q: Any, value: Tensor) -> Categories:
    """Every coordinate of every element by itself, shape ``[*batch, *event, C]``.

    Args:
        q: a distribution for which :func:`count_of` gives a number.
        value: a draw, for its dtype and device.
    """
    log_probs = _log_probs(innermost(q))
    count = log_probs.shape[-1]
    elements = q.shape()[:-1] if _is_one_hot(q) else q.shape()
    support = torch.arange(count, dtype=value.dtype, device=value.device)
    if _is_one_hot(q):
        support = torch.eye(count, dtype=value.dtype, device=value.device)
    return Categories(log_probs.expand(*elements, count), support)


def whole_event(q: Any, value: Tensor) -> Categories:
    """Every joint value of an event's D coordinates as one, shape ``[*batch, C ** D]``."""
    each = each_coordinate(q, value)
    batch = q.batch_shape
    coordinates = each.log_probs.reshape(*batch, -1, each.count)
    D = coordinates.shape[-2]
    numbers = torch.arange(each.count, device=value.device)
    table = torch.cartesian_prod(*[numbers] * D).reshape(-1, D)
    log_probs = coordinates[..., torch.arange(D, device=value.device), table].sum(-1)
    return Categories(log_probs, each.support[table].reshape(-1, *q.event_shape))


def gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise, added to log probabilities to draw by the largest sum."""
    return -torch.empty_like(like).exponential_().log()


def _is_one_hot(q: Any) -> bool:
    return isinstance(innermost(q), _ONE_HOT)


def _log_probs(law: Any) -> Tensor:
    if isinstance(law, dist.Bernoulli):
        return torch.stack([logsigmoid(-law.logits), logsigmoid(law.logits)], -1)
    if isinstance(law, dist.Binomial):
        return law.log_prob(law.enumerate_support(expand=False)).movedim(0, -1)
    return law.logits
