"""The Gaussian law of a random tensor, and what is known of a view of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.layout import Layout
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.step import Step


class Moments(ABC):
    """What a Gaussian view of a random tensor gives to the outputs of a layer.

    Attributes:
        mean: the mean, in the view's shape; equal copies along its left dimensions may be one.
        copies: sizes of the view's left dimensions, one where it repeats the same elements.
        unit: how many elements of the random tensor, side by side, are of one piece: what is
            known of the view holds as long as no other part of such a piece is given to outputs.
    """

    mean: Tensor
    copies: tuple[int, ...]
    unit: int = 1

    def centre(self, operator: Operator, a: Any, layout: Layout) -> Tensor:
        """What the outputs vary about: their mean, and noise that all of an example share.

        Args:
            operator: the layer.
            a: its input.
            layout: what the outputs' dimensions run over.
        """
        return operator(a, self.mean)

    @abstractmethod
    def covariance(self, operator: Operator, a: Any, b: Any) -> Tensor:
        """Covariance of an example's outputs for two inputs, output by output."""

    def fits(self, lead: Sequence[int]) -> bool:
        """Whether examples of these dimensions can have the noise shared with other uses."""
        return True

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

    def for_one(self) -> "Law":
        """The same law for one tensor of its own, of whose noise nothing has been given yet."""
        return self

    @abstractmethod
    def draw(self) -> Tensor:
        """A draw, reparameterised."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """The tensors that it is made of."""

    @abstractmethod
    def moments(
        self, steps: Sequence[Step], place: Tensor, operator: Operator | None
    ) -> Moments | None:
        """What is known of a view; None if outputs would not have a simple law.

        Args:
            steps: the way to the view.
            place: which elements it has.
            operator: the layer; None for a bias.
        """
