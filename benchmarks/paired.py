"""Differences between two methods on the same data and from the same seeds.

What data have in common falls out of a difference that is taken datum by datum, so that it can be
shown where the two values, each with its own standard error, seem to agree.  Two errors are told
apart: that of the choice of data, and that of the choice of seeds (what training leaves to chance).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.interleave import Interval


@dataclass(frozen=True)
class Difference:
    """A mean over data and seeds, with the standard errors that the choice of either gives it.

    Attributes:
        value: the mean.
        by_data: of the data's means over seeds.
        by_seeds: of the seeds' means over data; None if there is one seed.
        by_seed: the means of the seeds.
    """

    value: float
    by_data: float
    by_seeds: float | None
    by_seed: tuple[float, ...]

    @property
    def error(self) -> float:
        """Standard error of both together."""
        return math.hypot(self.by_data, self.by_seeds or 0.0)

    @property
    def clear(self) -> bool:
        """Whether it is beyond twice its error, and has the same sign from every seed."""
        one_sign = len({x > 0 for x in self.by_seed}) == 1
        return one_sign and abs(self.value) > 2 * self.error

    @property
    def interval(self) -> Interval:
        """Twice the error to each side."""
        return Interval(self.value, self.value - 2 * self.error, self.value + 2 * self.error)

    @property
    def over_data(self) -> Interval:
        """Twice the error by data to each side."""
        return Interval(self.value, self.value - 2 * self.by_data, self.value + 2 * self.by_data)


def difference(ours: np.ndarray, theirs: np.ndarray | float = 0.0) -> Difference:
    """The mean of ours less theirs; rows are seeds, columns data."""
    each = ours - theirs
    by_seed, by_datum = each.mean(1), each.mean(0)
    return Difference(
        value=float(each.mean()),
        by_data=float(by_datum.std(ddof=1)) / math.sqrt(len(by_datum)),
        by_seeds=float(by_seed.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else None,
        by_seed=tuple(by_seed.tolist()),
    )


def verdict(pairs: Mapping[str, Difference], base: str) -> str:
    """Which differences are shown, and which are not, in words."""
    clear = [name for name, pair in pairs.items() if pair.clear]
    rest = [name for name in pairs if name not in clear]
    said = f"beyond twice the error of the paired difference from {base}: "
    said += "; ".join(clear) or "none"
    return said + (f".  No difference is shown for: {'; '.join(rest)}" if rest else "")
