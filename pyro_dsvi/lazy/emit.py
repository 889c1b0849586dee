"""Outputs of a layer whose weight has not been drawn."""

from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.laws.diagonal import Elementwise
from pyro_dsvi.lazy.laws.law import Moments
from pyro_dsvi.lazy.layout import mark
from pyro_dsvi.lazy.operators.affine import Affine
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.value import Undrawn
from pyro_dsvi.lazy.ways.flipout import Flipout
from pyro_dsvi.lazy.ways.marginal import Marginal
from pyro_dsvi.lazy.ways.per_example import PerExample
from pyro_dsvi.lazy.ways.way import Way

WAYS: dict[str, type[Way]] = {
    "marginal": Marginal,
    "per_example": PerExample,
    "flipout": Flipout,
}


def emit(
    operator: Operator,
    a: Any,
    w: Undrawn,
    asked_by: str,
    *,
    ways: tuple[type[Way], type[Way]] | None = None,
) -> Any:
    """Outputs of a layer, with noise of their own for each example.

    Args:
        operator: the layer, as a bilinear map.
        a: its input.
        w: its weight.
        asked_by: the torch function, for messages.
        ways: how outputs without and with further positions get their noise; as planned by default.

    Returns:
        The outputs; ``NotImplemented`` if the weight has to be drawn for them.

    Raises:
        IncompatibleSite: if elements of the weight have been used before in another way.
    """
    moments = moments_of(w, operator)
    if moments is None:
        return NotImplemented
    plan = w.root.plan
    layout = operator.layout(a, w.place, plan.example_dims)
    alone, shared = ways or (WAYS[plan.alone], WAYS[plan.shared])
    make = shared if layout.positions else alone
    if make is Flipout and not w.root.law.flips:
        return NotImplemented

    if not moments.fits(layout.once_without_outputs):
        raise w.root.second_use(asked_by)

    def serves(way: Way) -> bool:
        return way.serves(operator, layout)

    way = w.root.way_for(w, asked_by, serves, make, moments.unit)
    return mark(way.outputs(operator, a, moments, layout), layout)


def emit_affine(a: Tensor, w: Undrawn, bias: Undrawn, asked_by: str) -> Any:
    """Outputs of a linear layer with one number of noise for weight and bias together.

    Args:
        a: the input.
        w: the weight, ``[o, i]``.
        bias: the bias, ``[o]``.
        asked_by: the torch function, for messages.

    Returns:
        The outputs; ``NotImplemented`` if weight and bias have to give their noise one by one.
    """
    ours, theirs = moments_of(w, Affine()), moments_of(bias, None)
    if not isinstance(ours, Elementwise) or not isinstance(theirs, Elementwise):
        return NotImplemented
    plan = w.root.plan
    layout = Affine().layout(a, w.place, plan.example_dims)
    if layout.positions or plan.alone != "marginal" or w.root is bias.root:
        return NotImplemented
    past, bias_past = w.root.earlier(w, 1), bias.root.earlier(bias, 1)
    if not past and not bias_past:
        way = Marginal()
        w.root.note(w, way, 1)
        bias.root.note(bias, way, 1)
    elif len(past) == len(bias_past) == 1 and past[0].way is bias_past[0].way:
        way = past[0].way
        same = past[0].is_of(w) and bias_past[0].is_of(bias)
        if not same or not way.serves(Affine(), layout):
            return NotImplemented
    else:
        return NotImplemented
    return mark(way.outputs(Affine(), a, ours.with_bias(theirs), layout), layout)


def moments_of(w: Undrawn, operator: Operator | None) -> Moments | None:
    """What is known of the law of a view; None if outputs would not have a simple law.

    Args:
        w: the view.
        operator: the layer; None for a bias.
    """
    event = 1 if operator is None else operator.event
    pairs = zip(w.place.shape[-event:], w.place.stride()[-event:], strict=True)
    if any(size > 1 and not stride for size, stride in pairs):
        return None  # an element stands there twice
    return w.root.law.moments(w.steps, w.place, operator)
