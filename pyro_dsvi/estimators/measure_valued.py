r"""Measure-valued (weak) derivatives: the gradient of a law as the difference of two laws.

.. math:: \nabla_\theta \mathbb{E}_{p_\theta}[f(z)] = c_\theta \big(\mathbb{E}_{p^+}[f(z)]
    - \mathbb{E}_{p^-}[f(z)]\big)

for each coordinate in turn, all others being held.  Which two laws these are for which family is
told in :mod:`pyro_dsvi.estimators.weak_derivatives`.

References:
    :cite:p:`pflug1989`, :cite:p:`heidergott2010`, :cite:p:`mohamed2020mcgrad`,
    :cite:p:`rosca2019measure`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.estimators.weak_derivatives import own_axes, weak_derivative


@dataclass(frozen=True)
class MeasureValued(Estimator):
    """For Bernoulli, Categorical, OneHotCategorical, Binomial, Poisson and Normal sites.

    Each of an event's D coordinates asks for the credit at further values of its own: one for
    Bernoulli and Poisson, two for Binomial, C - 1 for C categories, two for the mean and one for
    the scale of a Normal.  The drawn value serves as one of a pair where it can.

    Args:
        coupled: whether the two values of a pair come from common noise, or from noise of their
            own.  It makes a difference for Normal and Poisson; the others need no noise.

    Raises:
        InvalidArgument: if ``coupled`` is neither True nor False.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.MeasureValued()})

    References:
        :cite:p:`mohamed2020mcgrad`, :cite:p:`rosca2019measure`
    """

    coupled: bool = True

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.coupled, bool):
            raise InvalidArgument(
                f"MeasureValued: coupled must be True or False, got {self.coupled!r}"
            )

    def objection(self, q: Any) -> str | None:
        if weak_derivative(q) is not None:
            return None
        return (
            f"no pair of laws is known here for {type(innermost(q)).__name__}, only for Bernoulli, "
            "Categorical, OneHotCategorical, Binomial, Poisson and Normal; use "
            "dsvi.estimators.Pathwise() or dsvi.estimators.ScoreFunction() here"
        )

    def exponentials(self, like: Tensor, count: int) -> Tensor:
        """Standard exponential noise, shape ``[count, *like.shape]``."""
        return like.new_empty(count, *like.shape).exponential_()

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        derivative = weak_derivative(q)
        assert derivative is not None  # or objected to
        noise = self.exponentials(value, derivative.exponentials(self.coupled))
        others = derivative.others(q, value, self.coupled, noise)
        return Counterfactual(_one_at_a_time(q, value, others), noise=len(others))

    def surrogate(self, visit: Visit) -> Surrogate:
        derivative = weak_derivative(visit.q)
        assert derivative is not None
        assert visit.counterfactual is not None  # as asked for
        credit, others = _by_coordinate(visit, visit.counterfactual.noise)
        return Surrogate.sum(*derivative.products(visit.q, visit.value, credit, others))


def _one_at_a_time(q: Any, value: Tensor, others: Tensor) -> Tensor:
    """Put other values of every coordinate into the draw, one coordinate after another.

    Args:
        q: the site's distribution.
        value: the draw, shape ``[*batch, *event, *own]``.
        others: m other values of each coordinate, shape ``[m, *value.shape]``.

    Returns:
        Shape ``[m * D, *value.shape]``.
    """
    batch, own = len(q.batch_shape), own_axes(q)
    shape = (*value.shape[:batch], -1, *value.shape[value.dim() - own :])
    flat, others = value.reshape(shape), others.reshape(len(others), 1, *shape)
    D = flat.shape[batch]
    mine = torch.eye(D, dtype=torch.bool, device=value.device)
    mine = mine.reshape(D, *(1,) * batch, D, *(1,) * own)
    return torch.where(mine, others, flat).reshape(-1, *value.shape)


def _by_coordinate(visit: Visit, m: int) -> tuple[Tensor, Tensor]:
    """Credit of the draw, and of each coordinate's m other values, in nats.

    Returns:
        Shapes broadcastable to ``[*batch, *event]`` and ``[m, *batch, *event]``.
    """
    q, own = visit.q, own_axes(visit.q)
    batch, elements = len(q.batch_shape), visit.value.shape[: visit.value.dim() - own]
    credit = visit.per_value(visit.credit)
    credit = credit.reshape(credit.shape[: credit.dim() - own])
    others = visit.per_value(visit.credits)  # [m * D, *batch, 1, ...]
    others = others.flatten(batch + 1) if q.event_shape else others.unsqueeze(-1)
    others = others.squeeze(-1).unflatten(0, (m, -1)).movedim(1, -1)
    return credit, others.expand(m, *elements[:batch], -1).reshape(m, *elements)
