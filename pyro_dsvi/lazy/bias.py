"""A bias that has not been drawn, added to the outputs of a layer: drawn for each example."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.emit import moments_of
from pyro_dsvi.lazy.layout import Kind, layout_of, mark
from pyro_dsvi.lazy.value import Undrawn
from pyro_dsvi.lazy.ways.per_example import PerExample
from pyro_dsvi.lazy.ways.way import Way


def add_bias(out: Tensor, bias: Undrawn, asked_by: str) -> Any:
    """Add a bias to outputs of a layer.

    Args:
        out: the outputs, with their layout noted on them.
        bias: broadcasts to them; its last dimension runs over the outputs.
        asked_by: the torch function, for messages.

    Returns:
        The sum; ``NotImplemented`` if the bias has to be drawn for it, as where ``out`` are not
        known for outputs.
    """
    layout = layout_of(out)
    if layout is None or not bias.dim() or bias.dim() > out.dim():
        return NotImplemented
    lead = (1,) * (out.dim() - bias.dim()) + tuple(bias.shape[:-1])
    *kinds, last = layout.kinds
    strange = any(n > 1 and kind is not Kind.COPY for n, kind in zip(lead, kinds, strict=True))
    if strange or last is not Kind.OUTPUT or bias.shape[-1] != out.shape[-1]:
        return NotImplemented
    each = tuple(
        own if kind is Kind.COPY else n
        for own, n, kind in zip(lead, layout.once, kinds, strict=False)
    )
    drawn = biases(bias, each, asked_by)
    return NotImplemented if drawn is None else mark(out + drawn, layout)


def biases(bias: Undrawn, lead: Sequence[int], asked_by: str) -> Tensor | None:
    """A bias for each example, the same wherever the examples use it again.

    Args:
        bias: the bias; its last dimension runs over the outputs.
        lead: sizes of the dimensions in the place of those to the left.
        asked_by: the torch function, for messages.

    Returns:
        The biases, shape ``[*lead, outputs]``; None if they have to be drawn once for all.
    """
    moments = moments_of(bias, None)
    if moments is None:
        return None

    if not moments.fits(lead):
        raise bias.root.second_use(asked_by)

    def serves(way: Way) -> bool:
        return way.gives_each(lead)

    way = bias.root.way_for(bias, asked_by, serves, PerExample, moments.unit)
    return way.each(moments, lead)
