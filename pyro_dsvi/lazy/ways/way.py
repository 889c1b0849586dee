"""One way to give a weight's noise to outputs, remembered for when the weight comes again."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.laws.law import Moments
from pyro_dsvi.lazy.layout import Layout
from pyro_dsvi.lazy.operators.operator import Operator


class Way(ABC):
    """Gives the noise of some elements of a random tensor to outputs.

    One instance serves all uses of the same elements, in order, and draws them jointly.
    """

    @abstractmethod
    def serves(self, operator: Operator, layout: Layout) -> bool:
        """Whether a further use of the same elements can be drawn jointly with those so far."""

    def gives_each(self, lead: Sequence[int]) -> bool:
        """Whether it knows the weights of each example, for examples of these dimensions."""
        return False

    @abstractmethod
    def outputs(self, operator: Operator, a: Any, moments: Moments, layout: Layout) -> Tensor:
        """The outputs of one use.

        Args:
            operator: the layer.
            a: its input.
            moments: of its weight.
            layout: what the output's dimensions run over.
        """
