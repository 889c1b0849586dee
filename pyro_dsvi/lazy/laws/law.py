"""The Gaussian law of a random tensor, and what is known of a view of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.step import Step


class Moments(ABC):
    """What a Gaussian view of a random tensor gives to the outputs of a layer.

    Attributes:
        mean: the mean, in the view's shape; equal copies along its left dimensions may be one.
        copies: sizes of the view's left dimensions, one where it repeats the same elements.
    """

    mean: Tensor
    copies: tuple[int, ...]

    @abstractmethod
    def covariance(self, operator: Operator, a: Any, b: Any) -> Tensor:
        """Covariance of an example's outputs for two inputs, output by output."""

    def colour(self, noise: Tensor) -> Tensor:
        """Correlate standard noise across the outputs of an example, as the weights do."""
        return noise

    @abstractmethod
    def deviations(self, lead: Sequence[int], operator: Operator | None = None) -> Tensor:
        """Independent deviations from the mean, of shape ``[*lead, *weight]``.

        Args:
            lead: sizes of the dimensions in the place of the view's left ones.
            operator: aligns the view with these dimensions, if it has to be.
        """


class Law(ABC):
    """A Gaussian law over tensors of one shape.

    Attributes:
        loc: the mean, in that shape.
        flips: whether deviations keep their law when rows and columns change sign.
    """

    loc: Tensor
    flips: bool = False

    @abstractmethod
    def draw(self) -> Tensor:
        """A draw, reparameterised."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """The tensors that it is made of."""

    @abstractmethod
    def moments(self, steps: Sequence[Step], place: Tensor, event: int) -> Moments | None:
        """What is known of a view; None if outputs would not have a simple law.

        Args:
            steps: the way to the view.
            place: which elements it has.
            event: how many of its dimensions, from the right, are one weight.
        """
