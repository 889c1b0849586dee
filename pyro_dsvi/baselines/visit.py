"""What an estimator and its baseline are shown of one sampled site, in one step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


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
