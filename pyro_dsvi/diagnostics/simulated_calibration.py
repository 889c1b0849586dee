r"""The report of variational simulation-based calibration.

Of data simulated at a draw θ of the prior, a guide is fitted and asked for
:math:`p = \Pr_q(z < \theta)`.  If the guide's mean is right on average, p and 1 - p have the same
distribution; if it leans to the right of the truth, p leans to the left.  If it were the posterior,
p would be uniform; it is U-shaped for a guide that is too narrow.

The distance between the distributions of p and 1 - p is that of Kolmogorov and Smirnov.  The two
are mirror images, not independent samples, so its p-value comes from mirroring each simulation's p
or not, at random, which leaves all as it is if there is no lean.

References:
    :cite:p:`yao2018vi`
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pyro_dsvi.diagnostics.tables import aligned, as_html

_FEWEST_FLIPS, _MOST_FLIPS = 1999, 20_000
_NORMAL_99_9 = 3.2905267314919255


@dataclass(frozen=True, eq=False)
class SimulatedCalibration:
    """The outcome of :func:`vsbc`; prints as a table, plots, goes to pandas.

    Attributes:
        names: elements of the latents, as ``"w[0]"``.
        probabilities: Pr_q(z < θ), a half for equals, shape ``[simulations, elements]``.
        num_samples: draws of each fitted guide.
        level: probability of calling any element of a guide without lean biased.
    """

    names: tuple[str, ...]
    probabilities: np.ndarray
    num_samples: int
    level: float

    @property
    def distance(self) -> np.ndarray:
        """Kolmogorov and Smirnov's distance of p from 1 - p, by element."""
        as_seen = np.ones((1, len(self.probabilities)))
        return np.array([_asymmetry(p, as_seen)[0] for p in self.probabilities.T - 0.5])

    @cached_property
    def p_value(self) -> np.ndarray:
        """Of that distance if there were no lean, by element."""
        simulations, elements = self.probabilities.shape
        count = min(_MOST_FLIPS, max(_FEWEST_FLIPS, int(2 * elements / self.level)))
        signs = np.random.default_rng(0).choice([-1, 1], (count, simulations))
        found = []
        for centred in self.probabilities.T - 0.5:
            as_seen = _asymmetry(centred, np.ones((1, simulations)))
            found.append((1 + (_asymmetry(centred, signs) >= as_seen - 1e-12).sum()) / (count + 1))
        return np.array(found)

    @property
    def lean(self) -> np.ndarray:
        """Mean of p less one half: above zero where the guide sits below the truth."""
        return self.probabilities.mean(0) - 0.5

    @property
    def spread(self) -> np.ndarray:
        """Mean distance of p from one half: 1/4 if uniform, more where the guide is too narrow."""
        return np.abs(self.probabilities - 0.5).mean(0)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What each element's p say, in words; of a guide that leans, the width is not judged."""
        simulations, elements = self.probabilities.shape
        limit = _NORMAL_99_9 / np.sqrt(48 * simulations)  # Var of |u - 1/2| is 1/48
        said = []
        rows = zip(self.p_value, self.lean, self.spread, strict=True)
        for p, lean, spread in rows:
            if p <= self.level / elements:
                said.append("too low" if lean > 0 else "too high")
            elif abs(spread - 0.25) > limit:
                said.append("too narrow" if spread > 0.25 else "too wide")
            else:
                said.append("nothing seen")
        return tuple(said)

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against any element."""
        return all(verdict == "nothing seen" for verdict in self.verdicts)

    def table(self) -> list[dict[str, Any]]:
        """One record for each element."""
        columns = (self.names, self.lean, self.spread, self.distance, self.p_value, self.verdicts)
        keys = ("latent", "lean", "spread", "distance", "p value", "guide is")
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, by latent."""
        import pandas as pd

        return pd.DataFrame(self.table()).set_index("latent")

    def plot(self) -> Any:
        """Histograms of p, each with the band it would stay in if uniform: a figure."""
        from pyro_dsvi.diagnostics.figures import draw_calibration

        return draw_calibration(self)

    def __str__(self) -> str:
        return "\n".join([self._head(), "", *aligned(self._cells(), left=(0, -1))])

    def _repr_html_(self) -> str:
        return f"<div>{self._head()}</div>" + as_html(self._cells())

    def _head(self) -> str:
        return (
            f"Pr(draw < truth) over {len(self.probabilities)} simulations, {self.num_samples} "
            "draws each; uniform has lean 0 and spread 0.25"
        )

    def _cells(self) -> list[list[str]]:
        rows = [["latent", "lean", "spread", "distance", "p value", "guide is"]]
        for record in self.table():
            numbers = [f"{record['lean']:+.3f}", f"{record['spread']:.3f}"]
            numbers += [f"{record['distance']:.3f}", f"{record['p value']:.4f}"]
            rows.append([record["latent"], *numbers, record["guide is"]])
        return rows


def _asymmetry(centred: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Largest distance between the distribution functions of x and -x, after flips of signs.

    At t > 0 it is the sum of the signs of all x with |x| > t, so sums from the outside in.

    Args:
        centred: x, shape ``[n]``.
        flips: by row, 1 or -1 for each x, shape ``[rows, n]``.
    """
    order = np.argsort(-np.abs(centred), kind="stable")
    size = np.abs(centred)[order]
    ends = np.append(size[1:] < size[:-1] - 1e-12, True)  # of what is equally far out
    sums = np.cumsum(np.sign(centred)[order] * flips[:, order], axis=1)
    return np.abs(sums[:, ends]).max(1) / len(centred)
