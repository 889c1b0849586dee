r"""The steps from a random tensor to a view of it, and what each does to its moments.

.. math:: w' = c \odot V w + d \quad\Rightarrow\quad
    \mathbb{E} w' = c \odot V \mathbb{E} w + d, \qquad
    \mathrm{Var}\, w' = c^2 \odot V\, \mathrm{Var}\, w

V rearranges elements; c and d are constants, which may carry gradients of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class Step(ABC):
    """An affine map of a tensor that acts on each element by itself, or moves elements."""

    @abstractmethod
    def point(self, x: Tensor) -> Tensor:
        """What becomes of a value, or of a mean."""

    @abstractmethod
    def spread(self, x: Tensor) -> Tensor:
        """What becomes of a deviation from the mean."""

    @abstractmethod
    def variance(self, x: Tensor) -> Tensor:
        """What becomes of the elements' variances."""


@dataclass(frozen=True, eq=False)
class View(Step):
    """Elements are taken to other places.

    Args:
        func: the torch function.
        args: what follows the tensor.
        kwargs: keyword arguments.
        item: which of several results, or None where there is one.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    item: int | None = None

    def point(self, x: Tensor) -> Tensor:
        out = self.func(x, *self.args, **self.kwargs)
        return out if self.item is None else out[self.item]

    spread = variance = point


@dataclass(frozen=True, eq=False)
class Scale(Step):
    """Elements are multiplied by constants that broadcast to the tensor."""

    factor: Any

    def point(self, x: Tensor) -> Tensor:
        return x * self.factor

    spread = point

    def variance(self, x: Tensor) -> Tensor:
        return x * (self.factor * self.factor)


@dataclass(frozen=True, eq=False)
class Shift(Step):
    """Constants that broadcast to the tensor are added."""

    offset: Any

    def point(self, x: Tensor) -> Tensor:
        return x + self.offset

    def spread(self, x: Tensor) -> Tensor:
        return x

    variance = spread


def point(steps: Iterable[Step], x: Tensor) -> Tensor:
    """A value or mean after all steps."""
    for step in steps:
        x = step.point(x)
    return x


def spread(steps: Iterable[Step], x: Tensor) -> Tensor:
    """A deviation from the mean after all steps."""
    for step in steps:
        x = step.spread(x)
    return x


def variance(steps: Iterable[Step], x: Tensor) -> Tensor:
    """Variances after all steps."""
    for step in steps:
        x = step.variance(x)
    return x
