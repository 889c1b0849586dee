"""An empty figure, and what tells its curves apart on paper and on every screen.

Colours are Okabe's and Ito's, which the colour-blind tell apart; each comes with a marker and a
kind of line of its own, for print without colours.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

from pyro_dsvi.errors import InvalidArgument

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))


class Pen(NamedTuple):
    """How one curve is drawn."""

    colour: str
    marker: str
    line: Any


def pens(number: int) -> list[Pen]:
    """So many ways to draw a curve."""
    return [Pen(*pen) for pen in islice(cycle(zip(_COLOURS, _MARKERS, _LINES)), number)]  # noqa: B905


def empty(columns: int, size: tuple[float, float], widths: Sequence[float]) -> tuple[Any, Any]:
    """A figure that belongs to no window, and its axes, side by side.

    Raises:
        InvalidArgument: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidArgument(
            "figures need matplotlib; get it by `pip install matplotlib`"
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend_above(figure: Any, axes: Any) -> None:
    """The legend outside of the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = min(4, len(labels))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
