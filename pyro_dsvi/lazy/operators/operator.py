r"""A layer as a bilinear map of an input and a weight.

.. math:: b = C(a, w), \qquad \mathbb{E}\, b = C(a, \mathbb{E} w), \qquad
    \mathrm{Cov}[C(a, w), C(a', w)] = C(a \odot a', \mathrm{Var}\, w)

The last holds element by element of the output, for a weight with independent elements.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.layout import Layout


class Operator(ABC):
    """A bilinear map; subclasses are frozen dataclasses, equal where the map is the same.

    Attributes:
        event: how many of the weight's dimensions, from the right, are one weight.
        by_rows: whether each output has a row of the weight, an element of its first dimension.
    """

    event: int
    by_rows: bool

    @abstractmethod
    def __call__(self, a: Any, w: Tensor) -> Tensor:
        """The outputs, where all examples share one weight."""

    @abstractmethod
    def layout(self, a: Any, place: Tensor, example_dims: int) -> Layout:
        """What the output's dimensions run over.

        Args:
            a: the input.
            place: has the weight's shape; its strides tell copies from one weight repeated.
            example_dims: how many dimensions of the input run over examples.
        """

    @abstractmethod
    def each(self, a: Any, w: Tensor, layout: Layout) -> Tensor:
        """The outputs, where each example has a weight of its own.

        Args:
            a: the input.
            w: the weights, shape ``[*layout.once_without_outputs, *weight]``.
            layout: what the output's dimensions run over.
        """

    def align(self, w: Tensor) -> Tensor:
        """A tensor of the weight's shape, to broadcast with weights of each example."""
        return w

    def cross(self, a: Any, b: Any) -> Any:
        """The input whose image of the variances is the covariance of two outputs."""
        return a * b

    @abstractmethod
    def sides(self, a: Any, w: Tensor, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one number an input, and one an output, of each example."""
