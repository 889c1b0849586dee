r"""Log densities of the commonest laws in fewer operations; anything else as its class has it.

.. math:: \log \mathcal{N}(x; \mu, \sigma)
    = -\tfrac12 \Big(\frac{x - \mu}{\sigma}\Big)^2 - \log\sigma - \tfrac12 \log 2\pi

Most of a small program's step goes into log densities and their gradients, each operation of which
costs a few microseconds, forwards and backwards, whatever the size of its tensors.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

_HALF_LOG_2PI = math.log(2 * math.pi) / 2


def log_prob(q: Any, value: Any) -> Tensor:
    """Log density at a value, in nats, of shape ``batch_shape``: the same as ``q.log_prob``.

    Args:
        q: a distribution, of torch's kind or not.
        value: where to take it.
    """
    law, events = q, 0
    while type(law) is dist.Independent:
        events += law.reinterpreted_batch_ndims
        law = law.base_dist
    short = _SHORT.get(type(law))
    # A law that validates its draws does so in its own log_prob.
    if short is None or law._validate_args or not isinstance(value, Tensor):
        return q.log_prob(value)
    density = short(law, value, events)
    return q.log_prob(value) if density is None else density


def _normal(law: Any, value: Tensor, events: int) -> Tensor:
    residual = (value - law.loc) / law.scale
    density = torch.sub(-_HALF_LOG_2PI - law.scale.log(), residual.square(), alpha=0.5)
    return _sum(density, events)


def _bernoulli(law: Any, value: Tensor, events: int) -> Tensor | None:
    logits = vars(law).get("logits")  # not made from probabilities, which are clamped first
    if logits is None:
        return None
    if logits.shape != value.shape:
        logits, value = torch.broadcast_tensors(logits, value)
    return -_sum(cross_entropy(logits, value, reduction="none"), events)


def _delta(law: Any, value: Tensor, events: int) -> Tensor | None:
    return _sum(law.log_density, events) if _is_view_of(value, law.v) else None


def _is_view_of(value: Tensor, v: Tensor) -> bool:
    """Whether a point mass is asked about its own point, without a look at the numbers."""
    if value is v:
        return True
    base = v._base if v._is_view() else v
    return (
        value._is_view()
        and value._base is base
        and value.shape == v.shape
        and value.stride() == v.stride()
        and value.storage_offset() == v.storage_offset()
    )


def _sum(density: Tensor, events: int) -> Tensor:
    return density.sum(tuple(range(-events, 0))) if events else density


_SHORT: dict[type, Callable[[Any, Tensor, int], Tensor | None]] = {
    dist.Normal: _normal,
    dist.Bernoulli: _bernoulli,
    dist.Delta: _delta,
}
