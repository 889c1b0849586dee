"""What a site's value was really drawn from, behind the wrappers around its distribution."""

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
from pyro.distributions.distribution import Distribution
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Independent, TransformedDistribution

_WRAPPERS = (MaskedDistribution, Independent, ExpandedDistribution)


def sampling_law(q: Any) -> Any:
    """The distribution without its masks: a mask silences a cost, but not a draw."""
    if isinstance(q, MaskedDistribution):
        return sampling_law(q.base_dist)
    if isinstance(q, Independent):
        base = sampling_law(q.base_dist)
        return q if base is q.base_dist else base.to_event(q.reinterpreted_batch_ndims)
    return q


def innermost(q: Any) -> Any:
    """The distribution inside all masks, event and batch wrappers."""
    while isinstance(q, _WRAPPERS):
        q = q.base_dist
    return q


def is_point_mass(q: Any) -> bool:
    """Whether the draw is a function of its parameters."""
    return isinstance(innermost(q), dist.Delta)


def is_partly_reparameterised(q: Any) -> bool:
    """Whether ``rsample`` leaves a part of the gradient to a score term."""
    while isinstance(q, (*_WRAPPERS, TransformedDistribution)):
        q = q.base_dist
    own = getattr(type(q), "score_parts", Distribution.score_parts)
    return own is not Distribution.score_parts


def partial_score(q: Any, value: Tensor) -> Tensor:
    """Log density of the part of a draw that a partly reparameterised ``rsample`` leaves out.

    The full gradient is the pathwise one plus the credit times the gradient of this density.

    Args:
        q: a distribution for which :func:`is_partly_reparameterised` holds.
        value: the draw itself, with its gradient.

    Returns:
        Log density in nats, of shape ``batch_shape``.

    References:
        :cite:p:`naesseth2017reparameterization`
    """
    if isinstance(q, MaskedDistribution):
        return partial_score(q.base_dist, value)
    if isinstance(q, Independent):
        part = partial_score(q.base_dist, value)
        n = q.reinterpreted_batch_ndims
        return part.flatten(-n).sum(-1) if n else part
    if isinstance(q, TransformedDistribution):
        base: Any = q.base_dist
        for transform in reversed(q.transforms):
            value = transform.inv(value)  # pyright: ignore[reportAssignmentType]
        part = partial_score(base, value)
        extra = len(base.batch_shape) - len(q.batch_shape)
        return part.flatten(-extra).sum(-1) if extra > 0 else part
    return q.score_parts(value).score_function


def support_moves(q: Any) -> bool:
    """Whether the support's bounds are being learnt: no score function can see them move."""
    try:
        support = q.support
    except (AttributeError, NotImplementedError):
        return False
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    bounds = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds)


def tensors_of(q: Any) -> Iterator[Tensor]:
    """The tensors that a distribution is made of, its base distributions included."""
    for part in vars(q).values():
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, TorchDistribution):
            yield from tensors_of(part)
