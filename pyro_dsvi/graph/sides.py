r"""What a particle sends to the model, to the guide, and along its path.

Where the guide climbs the bound that the model climbs, backpropagation through the bound's value
sends all three, and a gate on the draw puts in the gain of frozen densities.  Where it follows
something else, two live sums carry what each side receives,

.. math:: \sum_k m_k \log p(x, z_k) - \sum_k n_k \log q(z_k \mid x)

and the gate on a draw turns the weight :math:`m_k`, which comes back through the model, into that
of the path.  So :math:`m_k` must not vanish where the path's weight does not (a weight that has
underflown, say): it is kept above :math:`2^{-64}` of it, which the gate takes back exactly, and
which adds to the model's gradient what no rounding would show; and, since that underflows in its
turn for the least of the path's weights, above the smallest normal number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound

_FLOOR = 2.0**-64


class Sides(NamedTuple):
    """Weights without gradient, of the shape of the log weights.

    Attributes:
        model: of the gradient of log p, in the model's parameters and in the draws.
        guide: of the gradient of -log q, likewise.
        live: what a gate makes of ``model``, where the guide's densities are live.
        frozen: the same for a density that is frozen and counts in full.
    """

    model: Tensor
    guide: Tensor
    live: Tensor
    frozen: Tensor


def are_apart(bound: Bound, frozen: bool) -> bool:
    """Whether the two sides are weighed by themselves, and not by the bound's value.

    So is a bound whose gain is a quotient: the gate then divides by the very number that was sent.
    """
    return bound.guide is not bound or (frozen and type(bound).gain is Bound.gain)


def sides(bound: Bound, log_w: Tensor, frozen: bool) -> Sides:
    """The weights of the two sides.

    Args:
        bound: the bound.
        log_w: log weights in nats, shape ``[K, *plates]``, without gradient.
        frozen: whether the guide's densities are frozen.
    """
    guide, slope = bound.guide, bound.slope(log_w)
    if not frozen and not isinstance(guide, Bound):  # nothing goes along a path
        return Sides(slope, guide.density(log_w), slope, slope)
    path = guide.path(log_w)
    through = guide.path(log_w, 1.0) if frozen else path
    size = path.abs() + through.abs()
    smallest = torch.finfo(size.dtype).tiny
    floor = torch.where(size == 0, 0.0, (_FLOOR * size).clamp(min=smallest))
    model = torch.where(slope.abs() < floor, torch.copysign(floor, slope), slope)
    live, held = _ratio(path, model), _ratio(through, model)
    return Sides(model, model if frozen else guide.density(log_w), live, held)


def _ratio(path: Tensor, weight: Tensor) -> Tensor:
    return torch.where(path == 0, 0.0, path / torch.where(path == 0, 1.0, weight))
