"""A gradient by parameter, with what is known of its error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Rounding grows with the number of operations; a step of a program has some hundreds.
_OPERATIONS = 1000.0


@dataclass(frozen=True, eq=False)
class Gradient:
    """An expected gradient of the bound, by parameter, in double precision.

    Attributes:
        mean: the expectation, or the estimate of it.
        standard_error: standard error of each element; zero where nothing was left to chance.
        rounding: what an element may be off by in floating point.
        how: how it was found, in words.
        exact: whether nothing was left to chance or to quadrature.
    """

    mean: Mapping[str, Tensor]
    standard_error: Mapping[str, Tensor]
    rounding: Mapping[str, Tensor]
    how: str
    exact: bool = False

    @classmethod
    def of_samples(cls, samples: Mapping[str, Tensor], how: str) -> "Gradient":
        """The mean of independent estimates.

        Args:
            samples: the estimates by parameter, shape ``[samples, *parameter]``.
            how: how they were made, in words.
        """
        mean, error, within = {}, {}, {}
        for name, given in samples.items():
            each = given.detach().double()
            mean[name] = each.mean(0)
            error[name] = each.std(0) / len(each) ** 0.5
            within[name] = rounding(each.abs().mean(0), torch.finfo(given.dtype).eps)
        return cls(mean, error, within, how)


class Moments:
    """Running mean and variance of gradients, in double precision (Welford's recurrence).

    Args:
        names: the parameters, in the order in which their gradients will come.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.count = 0
        self._mean: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._magnitude: list[Tensor] = []
        self._eps: list[float] = []

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take one estimate in."""
        self.count += 1
        if self.count == 1:
            self._eps = [torch.finfo(g.dtype).eps for g in gradients]
            zeros = [torch.zeros_like(g, dtype=torch.float64) for g in gradients]
            self._mean, self._squares, self._magnitude = zeros, list(zeros), list(zeros)
        for i, given in enumerate(gradients):
            g = given.detach().double()
            deviation = g - self._mean[i]
            self._mean[i] = self._mean[i] + deviation / self.count
            self._squares[i] = self._squares[i] + deviation * (g - self._mean[i])
            self._magnitude[i] = self._magnitude[i] + g.abs()

    @property
    def mean(self) -> list[Tensor]:
        """The mean of what was taken in, by parameter; empty before the first."""
        return list(self._mean)

    def gradient(self, how: str) -> Gradient:
        """The mean of what was taken in, with its standard error."""
        n = self.count
        variance = [square / (n - 1) / n for square in self._squares]
        return Gradient(
            dict(zip(self.names, self._mean, strict=True)),
            dict(zip(self.names, (v.sqrt() for v in variance), strict=True)),
            dict(zip(self.names, self._rounding(), strict=True)),
            how,
        )

    def _rounding(self) -> list[Tensor]:
        pairs = zip(self._magnitude, self._eps, strict=True)
        return [rounding(total / self.count, eps) for total, eps in pairs]


def rounding(magnitude: Tensor, eps: float) -> Tensor:
    """What an element may be off by, given the size of the numbers it was computed from.

    Elements of one tensor come from the same sums, so the largest counts for all.
    """
    largest = magnitude.max() if magnitude.numel() else magnitude.sum()
    return (_OPERATIONS * eps * largest).expand(magnitude.shape)
