r"""Weights drawn for each example, used at all of its positions: exact, as one grouped layer.

.. math:: b_e = C(a_e, \mu + \sigma \odot \varepsilon_e)
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.laws.law import Moments
from pyro_dsvi.lazy.layout import Layout
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.ways.way import Way


class PerExample(Way):
    """One draw of the weights for each example; a further use has the same draws."""

    def __init__(self) -> None:
        self._weights: Tensor | None = None
        self._lead: tuple[int, ...] = ()

    def gives_each(self, lead: Sequence[int]) -> bool:
        return self._lead == tuple(lead)

    def serves(self, operator: Operator, layout: Layout) -> bool:
        return self.gives_each(layout.once_without_outputs)

    def each(
        self, moments: Moments, lead: Sequence[int], operator: Operator | None = None
    ) -> Tensor:
        """The weights of each example, shape ``[*lead, *weight]``, drawn at the first call.

        Args:
            moments: of the weight.
            lead: sizes of the examples' dimensions, and of those of the weight's copies.
            operator: aligns the weight with these, if it has to be.
        """
        if self._weights is None:
            self._lead = tuple(lead)
            mean = moments.mean if operator is None else operator.align(moments.mean)
            self._weights = mean + moments.deviations(lead, operator)
        return self._weights

    def outputs(self, operator: Operator, a: Any, moments: Moments, layout: Layout) -> Tensor:
        weights = self.each(moments, layout.once_without_outputs, operator)
        return operator.each(a, weights, layout)
