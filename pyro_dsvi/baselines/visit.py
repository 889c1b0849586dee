"""What an estimator and its baseline are shown of one sampled site, in one step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Counterfactual:
    """Other values of a site, at which its estimator asks what the credit would have been.

    The guide's draws downstream of the site are made anew at these values, all others are held.

    Attributes:
        values: the values, shape ``[A, *value.shape]``.
        slopes: whether the credits are to be differentiable in the values.
        noise: whatever the estimator wants to find again in the visit.
    """

    values: Tensor
    slopes: bool = False
    noise: Any = None


@dataclass(eq=False)
class Visit:
    """One site, its density and its credit, for all particles that reached it.

    Shapes: K is the number of particles that reached the site, and ``*plates`` has one axis for
    every plate dimension of the program, of size one where the site is outside that plate.

    Attributes:
        site: the site's name.
        credit: what the drawn value is answerable for, in nats, without gradient,
            shape ``[K, *plates]``.
        score: log density whose gradient the credit multiplies, shape ``[K, *plates]``.
        share: weight of each element in the surrogate: 1 / (number of particles) under an additive
            bound, where ``credit`` is each particle's own, else the weight of the bound's term.  A
            tensor where the site is drawn once for each value of enumerated sites: their
            probability is part of it, and the values lie along an axis of their own, behind that
            of the particles.
        scale: factor by which subsampling multiplies the credit.
        leave_one_out: gives the bound without each particle in turn, in nats, shape
            ``[K, *plates]``.
        score_norm: squared norm of the gradient of ``score`` with respect to the parameters of
            the site's distribution, shape ``[K, *plates]``; computed when called.
        args: the program's positional arguments.
        kwargs: the program's keyword arguments.
        q: the site's distribution; like the three that follow, only for estimators that ask for
            counterfactual credits, which are shown the particles of one run at a time.
        value: the site's draw.
        counterfactual: what the estimator asked for.
        credits: what the value would have been answerable for, in nats, shape
            ``[A, K, *plates]``; differentiable in the values if that was asked for.
        totals: these credits summed over particles and plates, each cost once, however many
            elements answer for it, shape ``[A]``: what slopes in the values are to be taken of.
        separate: whether each particle's credit is its own, as it is under an additive bound.
    """

    site: str
    credit: Tensor
    score: Tensor
    share: float | Tensor
    scale: float | Tensor
    leave_one_out: Callable[[], Tensor]
    score_norm: Callable[[], Tensor]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    q: Any = None
    value: Tensor = field(default_factory=lambda: torch.zeros(()))
    counterfactual: Counterfactual | None = None
    credits: Tensor = field(default_factory=lambda: torch.zeros(()))
    totals: Tensor = field(default_factory=lambda: torch.zeros(()))
    separate: bool = True

    def per_value(self, x: Tensor) -> Tensor:
        """Numbers per plate element, such as the credit, shaped to multiply the site's value.

        Args:
            x: shape ``[..., K, *plates]``, with as many leading axes as there may be.

        Returns:
            The same numbers, broadcastable to ``[..., *value.shape]``.
        """
        axes = self.credit.dim()
        leading, own = x.shape[: x.dim() - axes], x.shape[x.dim() - axes :]
        batch = len(self.q.batch_shape)
        event = (1,) * len(self.q.event_shape)
        return x.reshape((*leading, *own[axes - batch :], *event))
