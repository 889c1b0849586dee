r"""What many estimates of a gradient say of the estimator, in one pass and little memory.

With :math:`\bar g_s` the mean of the first s estimates, the summed squares of Welford's recurrence

.. math:: \sum_{s=2}^{n} d_s = \sum_{s=1}^{n} \|g_s - \bar g_n\|^2, \qquad
    d_s = (g_s - \bar g_{s-1}) \cdot (g_s - \bar g_s), \qquad
    \mathbb{E}\, d_s = \operatorname{tr} \operatorname{Var} g

are terms that are uncorrelated up to :math:`O(1/s)`: their spread tells how well the variance is
known, whatever the distribution of g, and no estimate need be kept.  The variance's interval is
normal in its logarithm.

The error of a mean of :math:`2^j` estimates comes from means over blocks of so many, the partial
sums of all j kept like the digits of a binary counter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_dsvi.diagnostics.gradient import Gradient, Moments

_FEWEST_BLOCKS = 4  # for a mean squared error to be worth a point
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Spread:
    """Variance of a gradient's estimate, summed over elements.

    Attributes:
        value: the variance, in nats² per squared unit of the parameter.
        low: lower end of its 95 % interval.
        high: upper end; both are the value itself where nothing was left to chance.
    """

    value: float
    low: float
    high: float


class Tally:
    """Takes in estimate after estimate.

    Args:
        names: the parameters, in the order in which their gradients will come.
        reference: the right gradient, which errors are counted from.
    """

    def __init__(self, names: Sequence[str], reference: Gradient) -> None:
        self.moments = Moments(names)
        self.names = list(names)
        self._wanted = [reference.mean[name] for name in names]
        self._doubt = [float(reference.standard_error[name].square().sum()) for name in names]
        self._terms: list[list[float]] = []
        self._carried: list[list[Tensor] | None] = []
        self._squared: list[list[float]] = []
        self._blocks: list[int] = []

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take one estimate in."""
        given = [g.detach().double() for g in gradients]
        before = self.moments.mean
        self.moments.add(gradients)
        if before:
            terms = zip(given, before, self.moments.mean, strict=True)
            self._terms.append([float(((g - old) * (g - new)).sum()) for g, old, new in terms])
        self._carry(given)

    def spread(self, names: Sequence[str] | None = None) -> Spread:
        """Variance of one estimate, summed over the elements of the parameters named, or of all."""
        chosen = [i for i, name in enumerate(self.names) if names is None or name in names]
        terms = np.array(self._terms).reshape(len(self._terms), len(self.names))[:, chosen].sum(1)
        return interval(terms)

    def errors(self, name: str | None = None) -> tuple[tuple[int, float, int], ...]:
        """Root mean squared error of a mean of so many estimates, in nats, and blocks seen.

        What the reference itself may be off by is taken out; a point that this leaves nothing of
        is left out.
        """
        chosen = [i for i, other in enumerate(self.names) if name is None or other == name]
        doubt = sum(self._doubt[i] for i in chosen)
        found = []
        for level, blocks in enumerate(self._blocks):
            square = sum(self._squared[level][i] for i in chosen) / blocks - doubt
            if blocks >= _FEWEST_BLOCKS and square > 0:
                found.append((2**level, math.sqrt(square), blocks))
        return tuple(found)

    def _carry(self, total: list[Tensor]) -> None:
        level = 0
        while True:
            if level == len(self._carried):
                self._carried.append(None)
                self._squared.append([0.0] * len(self.names))
                self._blocks.append(0)
            self._blocks[level] += 1
            for i, (part, wanted) in enumerate(zip(total, self._wanted, strict=True)):
                self._squared[level][i] += float((part / 2**level - wanted).square().sum())
            other = self._carried[level]
            if other is None:
                self._carried[level] = total
                return
            self._carried[level] = None
            total = [a + b for a, b in zip(total, other, strict=True)]
            level += 1


def interval(terms: np.ndarray) -> Spread:
    """A mean of uncorrelated terms that are positive on average, with its 95 % interval.

    Args:
        terms: shape ``[n]``.
    """
    value = float(terms.mean())
    if len(terms) < 2 or value <= 0:
        return Spread(max(value, 0.0), max(value, 0.0), max(value, 0.0))
    relative = float(terms.std(ddof=1)) / math.sqrt(len(terms)) / value
    return Spread(
        value, value / math.exp(_NORMAL_95 * relative), value * math.exp(_NORMAL_95 * relative)
    )


def fitted_rate(errors: Sequence[tuple[int, float, int]]) -> float:
    """Slope of log error in log samples, each point weighted by its blocks; NaN below two points.

    Example:
        >>> round(fitted_rate([(1, 8.0, 64), (4, 4.0, 16), (16, 2.0, 4)]), 6)
        -0.5
    """
    if len(errors) < 2:
        return math.nan
    samples, error, blocks = (np.array(column, dtype=float) for column in zip(*errors, strict=True))
    x, y = np.log(samples), np.log(error)
    x = x - np.average(x, weights=blocks)
    return float((blocks * x * y).sum() / (blocks * x * x).sum())


def exact_moments(
    weighted: Sequence[tuple[float, list[Tensor]]], names: Sequence[str]
) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
    """Mean by parameter, and variance summed over its elements, of weighted estimates.

    Args:
        weighted: probability and gradient, for every draw that there is.
        names: the parameters.
    """
    probability = torch.tensor([w for w, _ in weighted], dtype=torch.float64)
    mean, variance = {}, {}
    for i, name in enumerate(names):
        each = torch.stack([gradient[i].detach().double() for _, gradient in weighted])
        weight = probability.to(each.device)
        mean[name] = torch.tensordot(weight, each, 1)
        square = (each - mean[name]).square().reshape(len(each), -1).sum(1)
        variance[name] = float(weight @ square)
    return mean, variance
