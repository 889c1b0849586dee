r"""Kullback-Leibler divergences of normal laws in fewer operations; others as torch has them.

.. math:: \mathrm{KL}(\mathcal{N}(\mu, \sigma) \,\|\, \mathcal{N}(m, s))
    = \tfrac12 \frac{\sigma^2 + (\mu - m)^2}{s^2} - \log\frac{\sigma}{s} - \tfrac12

In a network whose every weight is a latent, this is a large part of the step, and most of its time
goes into memory: a weight's divergence from a prior that is not learnt is taken in as few passes
over its elements as there are sums.  Particles that stand side by side share it.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.linalg import vector_norm

from pyro_dsvi.lazy.copies import compact


def divergence(q: Any, p: Any) -> Tensor:
    """KL(q || p) in nats, of shape ``batch_shape``: the same as ``kl_divergence``.

    Args:
        q: a distribution.
        p: another, of the same shapes.

    Raises:
        NotImplementedError: if there is no closed form.
    """
    (ours, events), (theirs, others) = _unwrapped(q), _unwrapped(p)
    if type(ours) is not dist.Normal or type(theirs) is not dist.Normal or events != others:
        return kl_divergence(q, p)
    return _of_normals(ours, theirs, events)


def _unwrapped(law: Any) -> tuple[Any, int]:
    events = 0
    while type(law) is dist.Independent:
        events += law.reinterpreted_batch_ndims
        law = law.base_dist
    return law, events


def _of_normals(q: Any, p: Any, events: int) -> Tensor:
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    batch = len(shape) - events
    laws = [x.expand(shape) for x in (q.loc, q.scale, p.loc, p.scale)]
    loc, scale, prior_loc, prior_scale = (compact(x, batch) for x in laws)
    width = compact(prior_scale)
    learnt = prior_loc.requires_grad or prior_scale.requires_grad
    alone = all(n == 1 for x in (loc, scale, prior_loc) for n in x.shape[:batch])
    if events and alone and width.numel() == 1 and not learnt:
        value: Any = _FromOneWidth.apply(loc, scale, prior_loc, width.reshape(()))
        return value.expand(shape[:batch])
    ratio = (scale.square() + (loc - prior_loc).square()) / prior_scale.square()
    value = 0.5 * (ratio - 1) - (scale / prior_scale).log()
    value = value.sum(tuple(range(-events, 0))) if events else value
    return value.expand(shape[:batch])


class _FromOneWidth(torch.autograd.Function):
    """The sum of the divergences of all elements from a prior of one width, which is not learnt."""

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, prior_loc: Tensor, width: Tensor) -> Tensor:
        ctx.save_for_backward(loc, scale, prior_loc, width)
        memory = scale.log()
        logs = memory.sum()
        torch.sub(loc, prior_loc, out=memory)
        squares = vector_norm(memory).square() + vector_norm(scale).square()
        return squares / (2 * width.square()) - logs + loc.numel() * (width.log() - 0.5)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        loc, scale, prior_loc, width = ctx.saved_tensors
        (gradient,) = gradients
        weight = gradient / width.square()
        by_loc = (loc - prior_loc).mul_(weight)
        by_scale = scale.reciprocal().mul_(-gradient).addcmul_(scale, weight)
        return by_loc, by_scale, None, None
