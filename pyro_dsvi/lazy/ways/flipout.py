r"""One deviation for all examples, its rows and columns flipped by signs of each: flipout.

.. math:: b_e = C(a_e, \mu) + s_e \odot C(a_e \odot r_e, \Delta), \qquad
    r_e, s_e \in \{-1, 1\} \text{ fair}

:math:`\Delta \odot s_e r_e^\top` has the law of :math:`\Delta` itself, if its elements are
independent and symmetric, so each example's outputs have the right joint law; and two examples,
which share :math:`\Delta`, are uncorrelated in their noise.

References:
    :cite:p:`wen2018flipout`
"""

from typing import Any

from torch import Tensor

from pyro_dsvi.lazy import noise
from pyro_dsvi.lazy.laws.law import Moments
from pyro_dsvi.lazy.layout import Layout
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.ways.way import Way


class Flipout(Way):
    """One deviation, and each example's signs; a further use has the same."""

    def __init__(self) -> None:
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None
        self._lead: tuple[int, ...] = ()

    def serves(self, operator: Operator, layout: Layout) -> bool:
        return self._lead == layout.once_without_outputs

    def outputs(self, operator: Operator, a: Any, moments: Moments, layout: Layout) -> Tensor:
        if self._drawn is None:
            self._lead = layout.once_without_outputs
            inputs, outputs = operator.sides(a, moments.mean, layout)
            self._drawn = (
                moments.deviations(moments.copies),
                noise.signs(inputs, moments.mean),
                noise.signs(outputs, moments.mean),
            )
        deviation, inputs, outputs = self._drawn
        return operator(a, moments.mean) + outputs * operator(a * inputs, deviation)
