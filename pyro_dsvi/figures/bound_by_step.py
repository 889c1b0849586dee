"""The bound by step, with a band, and its tail magnified.

The first steps climb over orders of magnitude, the last over fractions of a nat; so the last ones
have axes of their own, on the scale of what happens there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.figures.canvas import Pen, empty, legend_above, pens

_FEWEST_IN_A_WINDOW = 5
_WINDOWS = 50
_MOST_POINTS = 1000


def plot_bound(
    bounds: Any,
    *,
    tail: float = 0.3,
    level: float = 0.9,
    window: int | None = None,
    reference: float | None = None,
) -> Any:
    """Draw the bound by step: all of it on the left, the last steps magnified on the right.

    A line is the median, a band holds the share ``level`` about it, of the estimates of all runs in
    a window of steps: what the next step's estimate will most likely be, no error of the mean.

    Args:
        bounds: estimates of the bound in nats (not of the loss, which is its negative), shape
            ``[steps]`` or ``[runs, steps]``; or a mapping from names to these.
        tail: share of the steps that is magnified.
        level: share of the estimates inside a band.
        window: steps in a window, which shrinks where it would leave the steps there are; 1 for
            each step by itself.  None: a fiftieth of them, and for a single run at least 5.
        reference: a value to compare with, such as the log evidence, in nats.

    Returns:
        A ``matplotlib.figure.Figure``; save it by ``.savefig(path)``.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import numpy as np, pyro_dsvi as dsvi
        >>> steps = np.arange(200)
        >>> noise = np.random.default_rng(0).normal(size=(4, 200))
        >>> figure = dsvi.figures.plot_bound({"ELBO": -900 / (1 + steps) - 7 + 0.1 * noise})
        >>> [axes.get_title() for axes in figure.axes]
        ['all 200 steps', 'the last 60 steps']
    """
    named = bounds if isinstance(bounds, Mapping) else {"": bounds}
    curves = {name: _runs(name, values) for name, values in named.items()}
    if not curves:
        raise InvalidArgument("plot_bound: there is no bound to draw")
    for name, value in (("tail", tail), ("level", level)):
        if not 0 < value < 1:
            raise InvalidArgument(f"plot_bound: {name} must lie between 0 and 1, got {value!r}")
    if window is not None and window < 1:
        raise InvalidArgument(f"plot_bound: window must be at least 1, got {window!r}")
    steps = max(runs.shape[1] for runs in curves.values())
    first = steps - max(2, round(tail * steps))
    figure, (whole, end) = empty(2, (10.0, 4.2), (1.3, 1.0))
    last = []
    for (name, runs), pen in zip(curves.items(), pens(len(curves)), strict=True):
        at, band = _band(runs, level, window)
        for axes in (whole, end):
            _draw(axes, at, band, pen, name)
        last.append(band[:, at >= first])
    _frame(whole, end, first, steps, np.concatenate(last, axis=1))
    if reference is not None:
        _refer(whole, end, float(reference))
    whole.set_ylabel(f"bound (nats)\nmedian and {level:.0%} of the estimates")
    legend_above(figure, whole)
    return figure


def _runs(name: str, values: Any) -> np.ndarray:
    """The estimates as ``[runs, steps]``."""
    runs = np.atleast_2d(np.asarray(values, dtype=float))
    where = f"plot_bound: {name!r}" if name else "plot_bound"
    if runs.ndim != 2 or runs.shape[1] < 2:
        raise InvalidArgument(
            f"{where}: expected estimates of shape [steps] or [runs, steps] with at least two "
            f"steps, got {np.shape(values)}"
        )
    if not np.isfinite(runs).any(axis=0).all():
        raise InvalidArgument(
            f"{where}: at step {int((~np.isfinite(runs).any(axis=0)).argmax())} no estimate is "
            "finite; draw the steps before it"
        )
    return np.where(np.isfinite(runs), runs, np.nan)


def _band(runs: np.ndarray, level: float, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Some steps, and there lower end, median and upper end, shape ``[3, steps]``."""
    shares = ((1 - level) / 2, 0.5, (1 + level) / 2)
    steps = runs.shape[1]
    if window is None:
        window = max(_FEWEST_IN_A_WINDOW if len(runs) == 1 else 1, steps // _WINDOWS)
    at = np.unique(np.linspace(0, steps - 1, _MOST_POINTS).round().astype(int))
    # As far to one side as to the other, so that a climb does not move the median.
    reach = np.minimum(np.minimum(at, steps - 1 - at), (window - 1) // 2)
    parts = (runs[:, i - n : i + n + 1] for i, n in zip(at, reach, strict=True))
    return at, np.stack([np.nanquantile(part, shares) for part in parts], axis=1)


def _draw(axes: Any, at: np.ndarray, band: np.ndarray, pen: Pen, name: str) -> None:
    axes.fill_between(at, band[0], band[2], color=pen.colour, alpha=0.22, linewidth=0)
    axes.plot(at, band[1], color=pen.colour, linestyle=pen.line, linewidth=1.6, label=name)


def _frame(whole: Any, end: Any, first: int, steps: int, last: np.ndarray) -> None:
    """Titles and limits, and on the left a mark around what the right-hand side magnifies."""
    low, high = float(last.min()), float(last.max())
    room = 0.08 * (high - low) or 1.0
    end.set_xlim(first, steps - 1)
    end.set_ylim(low - room, high + room)
    whole.set_xlim(0, steps - 1)
    whole.axvspan(first, steps - 1, color="0.5", alpha=0.12, linewidth=0)
    for axes, title in ((whole, f"all {steps} steps"), (end, f"the last {steps - first} steps")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.ticklabel_format(useOffset=False)
        axes.grid(axis="y", alpha=0.3)


def _refer(whole: Any, end: Any, reference: float) -> None:
    drawn = {"color": "black", "linewidth": 1.0, "linestyle": (0, (1, 1))}
    for axes in (whole, end):
        axes.axhline(reference, label=f"reference {reference:.6g}", **drawn)
    low, high = end.get_ylim()
    room = 0.05 * (max(high, reference) - min(low, reference))
    end.set_ylim(min(low, reference - room), max(high, reference + room))
