r"""The variance of a gradient summed over its many elements, and how well it is known.

.. math:: V = \sum_d \operatorname{Var} \hat g_d

Of R draws of P elements the bootstrap needs nothing but the R × R products of deviations from the
mean, so that its cost does not grow with P.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.interleave import Interval


@dataclass(frozen=True, eq=False)
class Spread:
    """A total variance.

    Attributes:
        value: its unbiased estimate.
        resampled: the same in resamples of the draws.
    """

    value: float
    resampled: np.ndarray

    @classmethod
    def of(cls, draws: Tensor, seed: int, resamples: int = 2000) -> "Spread":
        """Total variance over rows.

        Args:
            draws: a gradient in each row, independent of the others.
            seed: of the bootstrap.
            resamples: of the bootstrap.
        """
        count = len(draws)
        deviations = draws - draws.mean(0)
        products = (deviations @ deviations.T).double().numpy()
        random = np.random.default_rng(seed)
        weights = random.multinomial(count, np.full(count, 1 / count), resamples) / count
        around = ((weights @ products) * weights).sum(1)
        # A resample holds draws twice, which costs it another 1 / count of its variance.
        resampled = (weights @ products.diagonal() - around) * (count / (count - 1)) ** 2
        return cls(float(np.trace(products)) / (count - 1), resampled)

    @property
    def interval(self) -> Interval:
        """With the 95 % of the resamples in the middle."""
        return interval_of(self.value, self.resampled)

    def over(self, other: "Spread", factor: float = 1.0) -> Interval:
        """The ratio to another one, of draws of its own, times a factor."""
        point = factor * self.value / other.value
        # Shuffled by a fixed shift, lest resamples of the same seed go together.
        return interval_of(point, factor * self.resampled / np.roll(other.resampled, 1))


def interval_of(value: float, resampled: np.ndarray) -> Interval:
    """An estimate with the 95 % of its resamples in the middle."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
